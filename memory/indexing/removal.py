"""How a document's chunks go. An erasure, which ends everything, deletes by batches of its own."""

from __future__ import annotations

from collections.abc import Sequence

from memory.isolation.connection import Cursor
from memory.lexical.segments import remove_terms
from memory.rls import TenantTransaction

_DELETE_CHUNKS = "DELETE FROM memory_chunks WHERE user_hash = %s AND doc_id = ANY(%s) RETURNING id"


def delete_chunks(tx: TenantTransaction, doc_ids: Sequence[str]) -> Cursor:
    """Queue the deletion of these documents' chunks; `forget_chunks` takes their terms along, and counts nothing."""
    return tx.execute(_DELETE_CHUNKS, [tx.user_hash, list(doc_ids)])


def forget_chunks(tx: TenantTransaction, deleted: Cursor) -> int:
    """Delete the terms of what `delete_chunks` has deleted; how many chunks that were."""
    gone = [chunk_id for (chunk_id,) in deleted.fetchall()]
    remove_terms(tx, gone)
    return len(gone)
