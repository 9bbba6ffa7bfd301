"""Documents made from other documents, and how they go: with any document they were made from.

A derived document is one of source `summary` whose metadata names, under `derived_from`, the ids of the
documents it was made from. Whoever wrote it: so an export can be indexed again without loss.
"""

from __future__ import annotations

from typing import Any

from memory.indexing.term_index import remove_terms
from memory.rls import TenantTransaction

SUMMARY_SOURCE = "summary"
DERIVED_FROM = "derived_from"

_DELETE_CHUNKS = "DELETE FROM memory_chunks WHERE user_hash = %s AND doc_id = ANY(%s) RETURNING id"
_DELETE_DERIVED = """
DELETE FROM memory_documents
WHERE user_hash = %s AND cardinality(derived_from) > 0 AND derived_from && %s AND doc_id <> %s
RETURNING doc_id"""
_COUNT = """
UPDATE memory_tenants SET document_count = document_count - %s, chunk_count = chunk_count - %s, updated_at = now()
WHERE user_hash = %s"""


def derived_from(source: str, metadata: dict[str, Any]) -> list[str]:
    """The ids that a document of this source and metadata was made from; [] for one that was sent as it is."""
    ids = metadata.get(DERIVED_FROM)
    if source != SUMMARY_SOURCE or not isinstance(ids, list) or not all(isinstance(doc_id, str) for doc_id in ids):
        return []
    return list(dict.fromkeys(ids))


def forget_derived(tx: TenantTransaction, doc_id: str) -> None:
    """Delete every document made from `doc_id`, and whatever was made from those, counts included."""
    gone = [doc_id]
    while gone:
        deleted = tx.execute(_DELETE_DERIVED, [tx.user_hash, gone, doc_id]).fetchall()
        gone = [derived for (derived,) in deleted]
        if gone:
            tx.execute(_COUNT, [len(gone), delete_chunks(tx, gone), tx.user_hash])


def delete_chunks(tx: TenantTransaction, doc_ids: list[str]) -> int:
    """Delete these documents' chunks with their terms; how many there were. Takes the tenant row's lock."""
    gone = [chunk_id for (chunk_id,) in tx.execute(_DELETE_CHUNKS, [tx.user_hash, doc_ids]).fetchall()]
    remove_terms(tx, gone)
    return len(gone)
