"""Documents made from other documents, and how they go: with any document they were made from.

A derived document is one of source `summary` whose metadata names, under `derived_from`, the ids of the
documents it was made from, whether the service or a client wrote it: so an export can be indexed again without loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from memory.errors import FieldError, InvalidInput
from memory.formats.doc_ids import is_doc_id
from memory.indexing.removal import delete_chunks, forget_chunks
from memory.indexing.speakers import renew_for_gone_speakers
from memory.isolation.connection import Cursor
from memory.rls import TenantTransaction
from memory.sealing.counts import count

SUMMARY_SOURCE = "summary"
DERIVED_FROM = "derived_from"
DERIVED_MAX_IDS = 200  # a summary covers that many chunks at most
# Of a summary's metadata, whose 64 KB also hold up to 20 citations of 1 KB and the scope.
DERIVED_MAX_BYTES = 32 * 1024

# Of a row `d` of memory_documents: whether it was made from others. Nothing but a summary is, which spares the look.
IS_DERIVED = f"""(d.source = '{SUMMARY_SOURCE}' AND EXISTS (
    SELECT FROM memory_document_sources s WHERE s.user_hash = d.user_hash AND s.doc_id = d.doc_id))"""
# Of the same row: what it was made from, in the order that was given.
SOURCES_OF = f"""CASE WHEN d.source = '{SUMMARY_SOURCE}' THEN ARRAY(
    SELECT s.source_doc_id FROM memory_document_sources s
    WHERE s.user_hash = d.user_hash AND s.doc_id = d.doc_id ORDER BY s.position) ELSE '{{}}' END"""

_DELETE_SOURCES = "DELETE FROM memory_document_sources WHERE user_hash = %s AND doc_id = ANY(%s)"
_INSERT_SOURCES = """
INSERT INTO memory_document_sources (user_hash, doc_id, source_doc_id, position)
SELECT %s, %s, source_doc_id, position FROM unnest(%s::text[]) WITH ORDINALITY AS sources (source_doc_id, position)"""
# One look into the index for each document that goes: OFFSET keeps the planner from reading all pairs at once. UNION
# keeps every id once, so a circle ends.
_MADE_FROM_THOSE = """    SELECT made.doc_id FROM gone, LATERAL (
        SELECT s.doc_id FROM memory_document_sources s
        WHERE s.user_hash = %(user_hash)s AND s.source_doc_id = gone.doc_id OFFSET 0
    ) made"""
_MADE_FROM = f"""
WITH RECURSIVE gone (doc_id) AS (
    SELECT %(doc_id)s::text COLLATE "C"
    UNION
{_MADE_FROM_THOSE}
)
SELECT doc_id FROM gone WHERE doc_id <> %(doc_id)s"""
_DELETE_DOCUMENTS = "DELETE FROM memory_documents WHERE user_hash = %s AND doc_id = ANY(%s) RETURNING speaker"
# The chunks of these documents, as far as they are there, and of all that was made from them.
_CHUNKS_REPLACED = f"""
WITH RECURSIVE gone (doc_id) AS (
    SELECT doc_id FROM memory_documents WHERE user_hash = %(user_hash)s AND doc_id = ANY(%(doc_ids)s)
    UNION
{_MADE_FROM_THOSE}
)
SELECT coalesce(sum(chunk_count), 0)::bigint
FROM memory_documents WHERE user_hash = %(user_hash)s AND doc_id IN (SELECT doc_id FROM gone)"""


def derived_from(source: str, metadata: dict[str, Any], doc_id: str) -> list[str]:
    """The ids that document `doc_id` of this source and metadata was made from; [] for one that was sent as it is.

    They stand in clear, so a list is taken only whole and for what it should be: ids that a document can have. Without
    `doc_id` itself, from which it was not made. Raises InvalidInput for more than DERIVED_MAX_IDS different ones.
    """
    ids = metadata.get(DERIVED_FROM)
    if source != SUMMARY_SOURCE or not isinstance(ids, list) or not all(map(is_doc_id, ids)):
        return []
    others = [other for other in dict.fromkeys(ids) if other != doc_id]
    if len(others) > DERIVED_MAX_IDS:
        detail = f"A summary names at most {DERIVED_MAX_IDS} documents that it was made from."
        raise InvalidInput([FieldError(f"metadata.{DERIVED_FROM}", "max_items", detail)], detail)
    return others


def listed_bytes(doc_id: str) -> int:
    """What an id takes of DERIVED_MAX_BYTES: its compact JSON in UTF-8, and a comma."""
    return len(json.dumps(doc_id, ensure_ascii=False).encode()) + 1


def replace_sources(tx: TenantTransaction, doc_id: str, sources: Sequence[str], *, is_new: bool) -> None:
    """Keep that `doc_id` was made from `sources`, and no more from what it was made from before, unless it is new."""
    if not is_new:
        tx.execute(_DELETE_SOURCES, [tx.user_hash, [doc_id]])
    if sources:
        tx.execute(_INSERT_SOURCES, [tx.user_hash, doc_id, list(sources)])


def forget_derived(tx: TenantTransaction, doc_id: str) -> None:
    """Delete every document made from `doc_id`, and whatever was made from those, counts included.

    `doc_id` itself stays, also where it was made from them in turn. As many statements however long the chain.
    """
    found = tx.execute(_MADE_FROM, {"user_hash": tx.user_hash, "doc_id": doc_id}).fetchall()
    if made := [derived for (derived,) in found]:
        deleted = tx.execute(_DELETE_DOCUMENTS, [tx.user_hash, made])
        tx.execute(_DELETE_SOURCES, [tx.user_hash, made])
        chunks = forget_chunks(tx, delete_chunks(tx, made))
        speakers = [speaker for (speaker,) in deleted.fetchall()]
        count(tx, documents=-len(speakers), chunks=-chunks)
        renew_for_gone_speakers(tx, speakers)


def chunks_replaced(tx: TenantTransaction, doc_ids: Sequence[str]) -> Cursor:
    """Ask how many chunks go when these documents are written anew, with all that was made from them; the cursor."""
    return tx.execute(_CHUNKS_REPLACED, {"user_hash": tx.user_hash, "doc_ids": list(doc_ids)})
