"""How a document's chunks go. An erasure, which ends everything, deletes by batches of its own."""

from __future__ import annotations

from collections.abc import Sequence

from memory.isolation.connection import Cursor
from memory.lexical.segments import remove_terms
from memory.rls import TenantTransaction

# In every space: a user who is being moved has copies in the one he goes to. Only those of the one he is in are
# counted.
_DELETE_CHUNKS = """
DELETE FROM memory_chunks WHERE user_hash = %(user_hash)s AND doc_id = ANY(%(doc_ids)s)
RETURNING id, space = (SELECT active_space FROM memory_tenants WHERE user_hash = %(user_hash)s)"""


def delete_chunks(tx: TenantTransaction, doc_ids: Sequence[str]) -> Cursor:
    """Queue the deletion of these documents' chunks; `forget_chunks` takes their terms along, and counts nothing."""
    return tx.execute(_DELETE_CHUNKS, {"user_hash": tx.user_hash, "doc_ids": list(doc_ids)})


def forget_chunks(tx: TenantTransaction, deleted: Cursor) -> int:
    """Delete the terms of what `delete_chunks` has deleted; how many chunks that were of the space the user is in."""
    gone = deleted.fetchall()
    remove_terms(tx, [chunk_id for chunk_id, _ in gone])
    return sum(is_counted for _, is_counted in gone)
