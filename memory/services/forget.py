"""Forget a document with everything that was made from it, on demand or when its time is up."""

from __future__ import annotations

from memory.errors import NotFound
from memory.indexing.derived import forget_derived, replace_sources
from memory.indexing.removal import delete_chunks, forget_chunks
from memory.indexing.speakers import renew_for_gone_speakers
from memory.rls import TenantTransaction, bound_tenant, tenant_transaction
from memory.sealing.counts import count

_DELETE_EXPIRED = """
DELETE FROM memory_documents WHERE user_hash = %(user_hash)s AND doc_id IN (
    SELECT doc_id FROM memory_documents WHERE user_hash = %(user_hash)s AND expires_at <= now()
    ORDER BY expires_at, doc_id LIMIT %(limit)s)
RETURNING doc_id, speaker"""


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
        if row is not None:
            _forget_rest(tx, doc_id, row[0])
    # Not in the block: what is rolled back takes all that its connection had prepared along.
    if row is None:
        raise NotFound()


def delete_expired(*, limit: int) -> int:
    """Delete as `delete_document` what of the bound tenant's documents has expired, in one transaction; how many.

    At most `limit` of them, the longest expired first. One that was replaced meanwhile is as its new version says.
    """
    user_hash = bound_tenant()
    with tenant_transaction(user_hash, write=True) as tx:
        tx.state()
        deleted = tx.execute(_DELETE_EXPIRED, {"user_hash": user_hash, "limit": limit})
        rows = deleted.fetchall()
        for doc_id, speaker in rows:
            _forget_rest(tx, doc_id, speaker)
    return len(rows)


def _forget_rest(tx: TenantTransaction, doc_id: str, speaker: int | None) -> None:
    """What is left of a document whose row is deleted."""
    count(tx, documents=-1, chunks=-forget_chunks(tx, delete_chunks(tx, [doc_id])))
    replace_sources(tx, doc_id, [], is_new=False)
    forget_derived(tx, doc_id)
    renew_for_gone_speakers(tx, [speaker])
