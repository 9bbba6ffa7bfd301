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

from memory.embedding.spaces import dimension_of
from memory.embedding.vectors import half_vectors, unit_vectors
from memory.indexing.derived import derived_from
from memory.indexing.slices import Slice
from memory.lexical.speakers import speaker_id
from memory.lexical.terms import Blinder, BlindTerms, terms
from memory.sealing import columns as sealing
from memory.sealing.profile import TenantProfile
from memory.sealing.protection import protect
from memory.sealing.user_keys import Purpose

SEALS_PER_CHUNK = 3  # text, metadata, vector
SEALS_PER_DOCUMENT = 1  # metadata
SEALS_PER_SPEAKER = 1  # the name, where a document has one


@dataclass(frozen=True)
class DocumentDraft:
    """A document before sealing. `created_at` is aware; None means now. `speaker`: the name of whoever said it.

    `expires_at`, aware: from when on nobody sees it; None is never.
    """

    doc_id: str
    source: str
    text: str
    thread_id: str | None = None
    metadata: dict | None = None
    created_at: datetime | None = None
    sequence: int = 0
    speaker: str | None = None
    expires_at: datetime | None = None


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
class SealedSpeaker:
    """Who said a document: the name's blind id in the document's space, and the name sealed."""

    id: int
    name_cipher: bytes


@dataclass(frozen=True)
class SealedDocument:
    """Everything `store.store_documents` writes; holds no plaintext but what is in clear by design."""

    profile: TenantProfile
    doc_id: str
    origin: sealing.Origin
    char_count: int
    meta_cipher: bytes
    content_mac: bytes
    derived_from: list[str]
    chunks: tuple[SealedChunk, ...]
    speaker: SealedSpeaker | None = None
    expires_at: datetime | None = None

    @property
    def space(self) -> int:
        """The space of its vectors and terms."""
        return self.profile.space

    @property
    def speaker_id(self) -> int | None:
        """The blind id of who said it; None where nobody is named."""
        return None if self.speaker is None else self.speaker.id

    @property
    def generation(self) -> int:
        """The generation of the data key that sealed it."""
        return self.profile.generation

    @property
    def seal_count(self) -> int:
        """How many times the data key's sub-keys were used."""
        of_speaker = 0 if self.speaker is None else SEALS_PER_SPEAKER
        return SEALS_PER_DOCUMENT + of_speaker + SEALS_PER_CHUNK * len(self.chunks)


def seal_document(
    profile: TenantProfile, draft: DocumentDraft, slices: Sequence[Slice], embeddings, *, language: str | None = None
) -> SealedDocument:
    """Seal a draft under the newest data key and blind its terms and its speaker under the active space's search key.

    `embeddings`: float[n, d], one row a slice, of the active space's model. `language` of its words: one of
    `terms.LANGUAGES`; None is the deployment's. Raises InvalidEmbedding before anything is sealed, InvalidInput as
    `derived_from`, KeyUnavailable, DecryptionFailed, SpaceMismatch.
    """
    sources = derived_from(draft.source, draft.metadata or {}, draft.doc_id)
    key, search_key = profile.newest, profile.search_key
    origin = sealing.Origin(draft.source, draft.thread_id, draft.created_at or datetime.now(UTC), draft.sequence)
    units = unit_vectors(embeddings, rows=len(slices), dimension=dimension_of(profile.space))
    searchable = half_vectors(protect(search_key, units))
    blinder = Blinder(search_key.subkey(Purpose.WORDS)) if settings.MEMORY_LEXICAL else None
    language = language or settings.MEMORY_LEXICAL_LANGUAGE
    chunks = []
    vectors = np.asarray(embeddings, np.float32)
    for index, (piece, vector, stored) in enumerate(zip(slices, vectors, searchable, strict=True)):
        chunk_id = uuid7()
        place = sealing.Place(chunk_id, draft.doc_id, index, piece.start, piece.end, origin)
        chunks.append(
            SealedChunk(
                id=chunk_id,
                start=piece.start,
                end=piece.end,
                embedding=stored,
                text_cipher=sealing.seal_text(key, place, piece.text),
                meta_cipher=sealing.seal_chunk_metadata(key, chunk_id, {}),
                emb_cipher=sealing.seal_vector(key, chunk_id, vector, stored),
                terms=blinder.blind(terms(piece.text, language)) if blinder else None,
            )
        )
    mac = sealing.content_mac(key, draft.text)
    speaker = None
    if draft.speaker is not None:
        name_cipher = sealing.seal_speaker(key, draft.doc_id, mac, draft.speaker)
        speaker = SealedSpeaker(speaker_id(search_key, draft.speaker), name_cipher)
    return SealedDocument(
        profile=profile,
        doc_id=draft.doc_id,
        origin=origin,
        char_count=len(draft.text),
        meta_cipher=sealing.seal_document_metadata(key, draft.doc_id, mac, origin, draft.metadata or {}),
        content_mac=mac,
        derived_from=sources,
        chunks=tuple(chunks),
        speaker=speaker,
        expires_at=draft.expires_at,
    )
