"""Documents made from other documents, and how they go: with any document they were made from.

A derived document is one of source `summary` whose metadata names, under `derived_from`, the ids of the
documents it was made from. Whoever wrote it: so an export can be indexed again without loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory.doc_ids import is_doc_id
from memory.indexing.term_index import remove_terms
from memory.rls import TenantTransaction

SUMMARY_SOURCE = "summary"
DERIVED_FROM = "derived_from"
# Of a summary's metadata, whose 64 KB also hold up to 20 citations of 1 KB and the scope.
DERIVED_MAX_BYTES = 32 * 1024

_DELETE_CHUNKS = "DELETE FROM memory_chunks WHERE user_hash = %s AND doc_id = ANY(%s) RETURNING id"
# The documents that were made from others, as pairs, are read once; then each level is one look into them. UNION
# keeps every id once, so a circle ends.
_DELETE_DERIVED = """
WITH RECURSIVE made_from (source, doc_id) AS MATERIALIZED (
    SELECT unnest(derived_from) COLLATE "C", doc_id
    FROM memory_documents WHERE user_hash = %(user_hash)s AND cardinality(derived_from) > 0
), gone (doc_id) AS (
    SELECT %(doc_id)s::text COLLATE "C"
    UNION
    SELECT made_from.doc_id FROM gone JOIN made_from ON made_from.source = gone.doc_id
)
DELETE FROM memory_documents
WHERE user_hash = %(user_hash)s AND doc_id IN (SELECT doc_id FROM gone) AND doc_id <> %(doc_id)s
RETURNING doc_id"""
# The chunks of these documents, as far as they are there, and of all that was made from them.
_CHUNKS_REPLACED = """
WITH RECURSIVE made_from (source, doc_id) AS MATERIALIZED (
    SELECT unnest(derived_from) COLLATE "C", doc_id
    FROM memory_documents WHERE user_hash = %(user_hash)s AND cardinality(derived_from) > 0
), gone (doc_id) AS (
    SELECT doc_id FROM memory_documents WHERE user_hash = %(user_hash)s AND doc_id = ANY(%(doc_ids)s)
    UNION
    SELECT made_from.doc_id FROM gone JOIN made_from ON made_from.source = gone.doc_id
)
SELECT coalesce(sum(chunk_count), 0)::bigint
FROM memory_documents WHERE user_hash = %(user_hash)s AND doc_id IN (SELECT doc_id FROM gone)"""
_COUNT = """
UPDATE memory_tenants SET document_count = document_count - %s, chunk_count = chunk_count - %s, updated_at = now()
WHERE user_hash = %s"""


def derived_from(source: str, metadata: dict[str, Any], doc_id: str) -> list[str]:
    """The ids that document `doc_id` of this source and metadata was made from; [] for one that was sent as it is.

    They stand in clear, so a list is taken only whole and for what it should be: ids that a document can have, of
    DERIVED_MAX_BYTES together. Without `doc_id` itself, from which it was not made.
    """
    ids = metadata.get(DERIVED_FROM)
    if source != SUMMARY_SOURCE or not isinstance(ids, list) or not all(map(is_doc_id, ids)):
        return []
    others = [other for other in dict.fromkeys(ids) if other != doc_id]
    return others if sum(map(listed_bytes, others)) <= DERIVED_MAX_BYTES else []


def listed_bytes(doc_id: str) -> int:
    """What an id takes of DERIVED_MAX_BYTES: its compact JSON in UTF-8, and a comma."""
    return len(json.dumps(doc_id, ensure_ascii=False).encode()) + 1


def forget_derived(tx: TenantTransaction, doc_id: str) -> None:
    """Delete every document made from `doc_id`, and whatever was made from those, counts included.

    `doc_id` itself stays, also where it was made from them in turn. As many statements however long the chain.
    """
    deleted = tx.execute(_DELETE_DERIVED, {"user_hash": tx.user_hash, "doc_id": doc_id}).fetchall()
    if gone := [derived for (derived,) in deleted]:
        tx.execute(_COUNT, [len(gone), delete_chunks(tx, gone), tx.user_hash])


def chunks_replaced(tx: TenantTransaction, doc_ids: Sequence[str]):
    """Ask how many chunks go when these documents are written anew, with all that was made from them; the cursor."""
    return tx.execute(_CHUNKS_REPLACED, {"user_hash": tx.user_hash, "doc_ids": list(doc_ids)})


def delete_chunks(tx: TenantTransaction, doc_ids: list[str]) -> int:
    """Delete these documents' chunks with their terms; how many there were. Takes the tenant row's lock."""
    gone = [chunk_id for (chunk_id,) in tx.execute(_DELETE_CHUNKS, [tx.user_hash, doc_ids]).fetchall()]
    remove_terms(tx, gone)
    return len(gone)
