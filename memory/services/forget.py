"""Forget a document with everything that was made from it."""

from __future__ import annotations

from memory.errors import NotFound
from memory.indexing.derived import forget_derived, replace_sources
from memory.indexing.removal import delete_chunks, forget_chunks
from memory.indexing.speakers import renew_for_gone_speakers
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing.counts import count


def delete_document(doc_id: str) -> None:
    """Delete the bound tenant's document `doc_id`, its chunks, their terms, and what was made from it.

    A writer of the same user waits at the tenant's row, so what it sees is the document before or after.
    Raises NotFound.
    """
    user_hash = bound_tenant()
    with tenant_transaction(user_hash, write=True) as tx:
        tx.state()
        locked = tx.execute(
            "DELETE FROM memory_documents WHERE user_hash = %s AND doc_id = %s RETURNING speaker", [user_hash, doc_id]
        )
        row = locked.fetchone()
        if row is None:
            raise NotFound()
        count(tx, documents=-1, chunks=-forget_chunks(tx, delete_chunks(tx, [doc_id])))
        replace_sources(tx, doc_id, [], is_new=False)
        forget_derived(tx, doc_id)
        renew_for_gone_speakers(tx, row)
