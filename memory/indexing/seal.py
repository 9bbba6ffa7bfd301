"""A document sealed under its user's keys, ready to be stored. Needs no database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
from django.conf import settings
from pgvector import HalfVector
from uuid6 import uuid7

from memory.embedding.vectors import half_vectors, unit_vectors
from memory.indexing.derived import derived_from
from memory.indexing.slices import Slice
from memory.lexical.terms import Blinder, BlindTerms, terms
from memory.models.chunk import EMBEDDING_DIMENSION
from memory.sealing import columns as sealing
from memory.sealing.keyring import Purpose, TenantKeys
from memory.sealing.protection import protect

SEALS_PER_CHUNK = 3  # text, metadata, vector
SEALS_PER_DOCUMENT = 1  # metadata


@dataclass(frozen=True)
class DocumentDraft:
    """A document before sealing. `created_at` is aware; None means now."""

    doc_id: str
    source: str
    text: str
    thread_id: str | None = None
    metadata: dict | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class SealedChunk:
    """One row of memory_chunks, but for what it shares with its document; its blind terms stand apart."""

    id: UUID
    start: int
    end: int
    embedding: HalfVector
    text_cipher: bytes
    meta_cipher: bytes
    emb_cipher: bytes
    terms: BlindTerms | None


@dataclass(frozen=True)
class SealedDocument:
    """Everything `store.store_documents` writes; holds no plaintext but what is in clear by design."""

    keys: TenantKeys
    space: int
    doc_id: str
    source: str
    thread_id: str | None
    char_count: int
    created_at: datetime
    meta_cipher: bytes
    content_mac: bytes
    derived_from: list[str]
    chunks: tuple[SealedChunk, ...]

    @property
    def seal_count(self) -> int:
        """How many times the data key's sub-keys were used."""
        return SEALS_PER_DOCUMENT + SEALS_PER_CHUNK * len(self.chunks)


def seal_document(
    keys: TenantKeys, space: int, draft: DocumentDraft, slices: Sequence[Slice], embeddings,
    *, language: str | None = None,
) -> SealedDocument:  # fmt: skip
    """Seal a draft and blind its terms. `embeddings`: float[n, d], one row a slice, of the active space's model.

    `language` of its words: one of `terms.LANGUAGES`; None is the deployment's. Raises InvalidEmbedding
    before anything is sealed, InvalidInput as `derived_from`.
    """
    sources = derived_from(draft.source, draft.metadata or {}, draft.doc_id)
    units = unit_vectors(embeddings, rows=len(slices), dimension=EMBEDDING_DIMENSION)
    searchable = half_vectors(protect(keys, units))
    blinder = Blinder(keys.subkey(Purpose.LEXICAL)) if settings.MEMORY_LEXICAL else None
    language = language or settings.MEMORY_LEXICAL_LANGUAGE
    chunks = []
    vectors = np.asarray(embeddings, np.float32)
    for index, (piece, vector, stored) in enumerate(zip(slices, vectors, searchable, strict=True)):
        chunk_id = uuid7()
        place = sealing.Place(chunk_id, draft.doc_id, index, piece.start, piece.end)
        chunks.append(
            SealedChunk(
                id=chunk_id,
                start=piece.start,
                end=piece.end,
                embedding=stored,
                text_cipher=sealing.seal_text(keys, place, piece.text),
                meta_cipher=sealing.seal_chunk_metadata(keys, chunk_id, {}),
                emb_cipher=sealing.seal_vector(keys, chunk_id, vector, stored),
                terms=blinder.blind(terms(piece.text, language)) if blinder else None,
            )
        )
    mac = sealing.content_mac(keys, draft.text)
    return SealedDocument(
        keys=keys,
        space=space,
        doc_id=draft.doc_id,
        source=draft.source,
        thread_id=draft.thread_id,
        char_count=len(draft.text),
        created_at=draft.created_at or datetime.now(UTC),
        meta_cipher=sealing.seal_document_metadata(keys, draft.doc_id, mac, draft.metadata or {}),
        content_mac=mac,
        derived_from=sources,
        chunks=tuple(chunks),
    )
