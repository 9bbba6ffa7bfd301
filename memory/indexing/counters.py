"""The counts in a tenant's row, and how chunks go: each is said here once, but for an erasure's batches, which end all.

Whoever adds or removes rows in a transaction counts them in it, under the lock of the tenant's row that every write
takes first, so that no count drifts.
"""

from __future__ import annotations

from collections.abc import Sequence

from memory.isolation.connection import Cursor
from memory.lexical.segments import remove_terms
from memory.rls import TenantTransaction

_COUNT = """
UPDATE memory_tenants SET
    document_count = document_count + %s, chunk_count = chunk_count + %s, seal_count = seal_count + %s,
    updated_at = now()
WHERE user_hash = %s
RETURNING chunk_count"""
_DELETE_CHUNKS = "DELETE FROM memory_chunks WHERE user_hash = %s AND doc_id = ANY(%s) RETURNING id"


def count(tx: TenantTransaction, *, documents: int = 0, chunks: int = 0, seals: int = 0) -> Cursor:
    """Queue what this transaction adds to the tenant's counts, or takes away; the cursor has how many chunks there are.

    `seals`: how often the newest data key has sealed.
    """
    return tx.execute(_COUNT, [documents, chunks, seals, tx.user_hash])


def delete_chunks(tx: TenantTransaction, doc_ids: Sequence[str]) -> Cursor:
    """Queue the deletion of these documents' chunks; `forget_chunks` takes their terms along, and counts nothing."""
    return tx.execute(_DELETE_CHUNKS, [tx.user_hash, list(doc_ids)])


def forget_chunks(tx: TenantTransaction, deleted: Cursor) -> int:
    """Delete the terms of what `delete_chunks` has deleted; how many chunks that were."""
    gone = [chunk_id for (chunk_id,) in deleted.fetchall()]
    remove_terms(tx, gone)
    return len(gone)
