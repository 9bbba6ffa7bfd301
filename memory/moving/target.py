"""Copies written where a user goes, batch by batch, each in one transaction with the note of what it copied."""

from __future__ import annotations

from collections.abc import Sequence

from memory.indexing.chunk_rows import insert_chunks
from memory.indexing.derived import replace_sources
from memory.lexical.segments import SEGMENT_CHUNKS, add_terms, flush, remove_terms
from memory.moving.copies import Copy
from memory.moving.move import Move
from memory.rls import TenantTransaction
from memory.sealing.counts import count, counted

_DELETE_CHUNKS = """
DELETE FROM memory_chunks WHERE user_hash = %s AND space = %s::smallint AND doc_id = ANY(%s) RETURNING id"""
_DELETE_DOCUMENTS = "DELETE FROM memory_documents WHERE user_hash = %s AND doc_id = ANY(%s)"
_DELETE_SOURCES = "DELETE FROM memory_document_sources WHERE user_hash = %s AND doc_id = ANY(%s)"
_FORGET = "DELETE FROM memory_moved_documents WHERE user_hash = %s AND doc_id = ANY(%s)"
_NOTE = """
INSERT INTO memory_moved_documents (user_hash, doc_id, version, chunk_count)
SELECT %s, * FROM unnest(%s::text[], %s::text[], %s::integer[])
ON CONFLICT (user_hash, doc_id) DO UPDATE SET version = excluded.version, chunk_count = excluded.chunk_count"""
_INSERT_DOCUMENT = """
INSERT INTO memory_documents
    (user_hash, doc_id, source, thread_id, sequence, chunk_count, char_count, generation, meta_cipher, content_mac,
     created_at, expires_at, updated_at, speaker, speaker_cipher)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_MEMTABLE = "SELECT count(*) FROM memory_lexical_chunks WHERE user_hash = %s AND space = %s::smallint"


def replace_copies(tx: TenantTransaction, move: Move, copies: Sequence[Copy]) -> None:
    """Write `copies` in place of what was copied of these documents before, and note their versions.

    `tx` writes as the user that he is where he goes, and has locked his row. Under the same name the documents' own
    rows are where they are, and only what is of a space is written. Raises KeyUnavailable when the data key may seal no
    more.
    """
    if not copies:
        return
    remove_copies(tx, move, [copy.doc_id for copy in copies])
    for copy in copies:
        if move.renames:
            _insert_document(tx, copy)
        insert_chunks(tx, move.space, copy)
        add_terms(tx, move.space, [(chunk.id, chunk.terms) for chunk in copy.chunks if chunk.terms is not None])
    noted = [(copy.doc_id, copy.version, len(copy.chunks)) for copy in copies]
    tx.execute(_NOTE, [tx.user_hash, *map(list, zip(*noted, strict=True))])
    counted(count(tx, seals=sum(copy.seal_count for copy in copies)))
    if tx.execute(_MEMTABLE, [tx.user_hash, move.space]).fetchone()[0] >= SEGMENT_CHUNKS:
        flush(tx, move.space)


def remove_copies(tx: TenantTransaction, move: Move, doc_ids: Sequence[str]) -> None:
    """Take away what was copied of these documents, if anything was."""
    deleted = tx.execute(_DELETE_CHUNKS, [tx.user_hash, move.space, list(doc_ids)])
    tx.execute(_FORGET, [tx.user_hash, list(doc_ids)])
    if move.renames:
        tx.execute(_DELETE_DOCUMENTS, [tx.user_hash, list(doc_ids)])
        tx.execute(_DELETE_SOURCES, [tx.user_hash, list(doc_ids)])
    remove_terms(tx, [chunk_id for (chunk_id,) in deleted.fetchall()], move.space)


def _insert_document(tx: TenantTransaction, copy: Copy) -> None:
    origin = copy.origin
    tx.execute(
        _INSERT_DOCUMENT,
        [tx.user_hash, copy.doc_id, origin.source, origin.thread_id, origin.sequence, len(copy.chunks),
         copy.char_count, copy.generation, copy.meta_cipher, copy.content_mac, origin.created_at, copy.expires_at,
         copy.updated_at, copy.speaker_id, copy.speaker_cipher],
    )  # fmt: skip
    replace_sources(tx, copy.doc_id, copy.sources, is_new=True)
