"""A user's documents as they are read to be copied: opened, with the version that they were read in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from uuid import UUID

import numpy as np
from pgvector import HalfVector

from memory import metrics
from memory.errors import DecryptionFailed
from memory.indexing.slices import Slice, join_slices
from memory.moving.versions import VERSION
from memory.retrieval.open import Opening
from memory.rls import tenant_transaction
from memory.sealing.columns import Origin, Place, open_vector
from memory.sealing.profile import TenantProfile
from memory.security import InvalidTag

_DOCUMENTS = f"""
SELECT d.doc_id, {VERSION}, d.source, d.thread_id, d.sequence, d.char_count, d.generation, d.meta_cipher, d.content_mac,
       d.created_at, d.expires_at, d.updated_at, d.speaker_cipher,
       ARRAY(SELECT s.source_doc_id FROM memory_document_sources s
             WHERE s.user_hash = %(user_hash)s AND s.doc_id = d.doc_id ORDER BY s.position)
FROM memory_documents d WHERE d.user_hash = %(user_hash)s AND d.doc_id = ANY(%(doc_ids)s) ORDER BY d.doc_id"""
_CHUNKS = """
SELECT doc_id, id, chunk_index, char_start, char_end, generation, text_cipher, meta_cipher, emb_cipher,
       halfvec_send(embedding)
FROM memory_chunks
WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND doc_id = ANY(%(doc_ids)s)
ORDER BY doc_id, chunk_index"""


@dataclass(frozen=True)
class OpenedChunk:
    """One chunk, opened. `vector`: the model's own, float32[d]; None where it was not asked for.

    `searchable`: the vector that search compares, under the search key that the user has here.
    """

    id: UUID
    slice: Slice
    metadata: dict
    vector: np.ndarray | None
    searchable: HalfVector


@dataclass
class OpenedDocument:
    """One document, opened. Times are aware."""

    doc_id: str
    version: str
    origin: Origin
    expires_at: datetime | None
    updated_at: datetime
    metadata: dict
    speaker: str | None
    sources: list[str]
    text: str = ""
    chunks: list[OpenedChunk] = field(default_factory=list)


def read_documents(profile: TenantProfile, doc_ids: Sequence[str], *, vectors: bool) -> list[OpenedDocument]:
    """Those of `doc_ids` that there are, in one snapshot in which `profile` stands. No transaction is open afterwards.

    `vectors`: whether the model's own are wanted. Raises StaleKeys, DecryptionFailed, KeyUnavailable: what does not
    open is quarantined, and its user stays where he is.
    """
    params = {"user_hash": profile.user_hash, "space": profile.space, "doc_ids": list(doc_ids)}
    with tenant_transaction(profile.user_hash) as tx:
        documents, chunks = tx.execute(_DOCUMENTS, params), tx.execute(_CHUNKS, params)
        tx.end()
        profile.verify(tx)
        rows, of_chunks = documents.fetchall(), chunks.fetchall()
    opened: dict[str, OpenedDocument] = {}
    chunks_of = {doc_id: list(group) for doc_id, group in groupby(of_chunks, key=lambda row: row[0])}
    with Opening(profile) as opening:
        for row in rows:
            doc_id, version, source, thread_id, sequence, char_count, generation, meta, mac, created_at = row[:10]
            expires_at, updated_at, name, sources = row[10:]
            origin = Origin(source, thread_id, created_at, sequence)
            document = opened[doc_id] = OpenedDocument(
                doc_id, version, origin, expires_at, updated_at,
                opening.document_metadata(doc_id, generation, mac, origin, meta),
                opening.speaker(doc_id, generation, mac, name), sources,
            )  # fmt: skip
            document.chunks = [_opened(opening, origin, chunk, vectors) for chunk in chunks_of.get(doc_id, [])]
            try:
                document.text = join_slices((chunk.slice.start, chunk.slice.text) for chunk in document.chunks)
            except ValueError:
                document.text = ""
            if len(document.text) != char_count:
                opening.fail(DecryptionFailed())
    return list(opened.values())


@dataclass
class _SealedRow:
    """What `Opening` wants of a chunk's row."""

    chunk_id: UUID
    generation: int
    text_cipher: bytes
    meta_cipher: bytes
    place: Place


def _opened(opening: Opening, origin: Origin, row: tuple, vectors: bool) -> OpenedChunk:
    doc_id, chunk_id, index, start, end, generation, text, meta, emb, searchable = row
    sealed = _SealedRow(chunk_id, generation, text, meta, Place(chunk_id, doc_id, index, start, end, origin))
    piece = Slice(opening.text(sealed), start, end)
    metadata = opening.metadata(sealed)
    vector, compared = None, HalfVector.from_binary(bytes(searchable))
    if vectors and generation in opening.profile.generations:
        try:
            key = opening.profile.data_key(generation)
            vector = open_vector(key, chunk_id, emb, compared)
        except InvalidTag:
            metrics.decrypt_failed.labels("emb_cipher").inc()
            opening.fail(DecryptionFailed())
    return OpenedChunk(chunk_id, piece, metadata, vector, compared)
