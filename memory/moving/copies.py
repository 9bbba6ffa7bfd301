"""From an opened document to its copy: cut, embedded, protected and sealed as the place that it goes to has it.

What is the same there is kept: a slice that the other space cuts alike keeps its chunk's id and what is known of it,
and its vector where the model is the same; the searchable one too, where the search key is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from uuid import UUID

import numpy as np
from django.conf import settings
from pgvector import HalfVector
from uuid6 import uuid7

from memory.embedding.embedder import Embedder
from memory.embedding.spaces import Space, dimension_of
from memory.embedding.vectors import half_vectors, unit_vectors
from memory.indexing.chunker import iter_chunks
from memory.indexing.seal import SEALS_PER_CHUNK, SEALS_PER_DOCUMENT, SEALS_PER_SPEAKER, SealedChunk
from memory.indexing.slices import Slice
from memory.lexical.speakers import speaker_id
from memory.lexical.terms import Blinder, terms
from memory.moving.documents import OpenedChunk, OpenedDocument
from memory.sealing import columns as sealing
from memory.sealing.protection import protect
from memory.sealing.user_keys import DataKey, Purpose, SearchKey

ENTITIES = "entities"


@dataclass(frozen=True)
class Place:
    """Where copies go: the user's name there, the data key that seals and the search key of the space."""

    user_hash: str
    data_key: DataKey
    search_key: SearchKey

    @property
    def space(self) -> int:
        """The space of the search key."""
        return self.search_key.space


@dataclass
class _Piece:
    """A chunk of a copy, not sealed yet. Without a vector it is to be embedded."""

    id: UUID
    slice: Slice
    metadata: dict
    vector: np.ndarray | None
    searchable: HalfVector | None


@dataclass
class Copy:
    """A document as it is written at the new place; the sealed columns of its own row where the name is another."""

    doc_id: str
    version: str
    origin: sealing.Origin
    char_count: int
    expires_at: datetime | None
    updated_at: datetime
    generation: int
    sources: list[str]
    speaker_id: int | None
    meta_cipher: bytes
    content_mac: bytes
    speaker_cipher: bytes | None
    chunks: list[SealedChunk] = field(default_factory=list)

    @property
    def seal_count(self) -> int:
        """How many times the data key sealed."""
        of_speaker = 0 if self.speaker_cipher is None else SEALS_PER_SPEAKER
        return SEALS_PER_DOCUMENT + of_speaker + SEALS_PER_CHUNK * len(self.chunks)


class Copier:
    """Makes copies for one target space. `embedder` is of that space; None where no text has to be embedded."""

    def __init__(self, source: Space, target: Space, embedder: Embedder | None, *, same_search_key: bool = False):
        self.needs_vectors = source.model == target.model
        self._keeps_slices = source.chunking == target.chunking and self.needs_vectors
        self._chunking = target.chunking
        self._embedder = embedder
        self._same_search_key = same_search_key

    @staticmethod
    def needs_model(source: Space, target: Space) -> bool:
        """Whether a move between these spaces embeds texts."""
        return source.model != target.model or source.chunking != target.chunking

    def copies(self, place: Place, documents: Sequence[OpenedDocument]) -> list[Copy]:
        """A copy of each document, for `place`. No database connection is held.

        Raises InvalidEmbedding, ModelUnavailable, SpaceMismatch, KeyUnavailable, DecryptionFailed.
        """
        pieces = [self._pieces(document) for document in documents]
        waiting = [piece for of_document in pieces for piece in of_document if piece.vector is None]
        if waiting:
            assert self._embedder is not None
            vectors = self._embedder.embed_passages([piece.slice.text for piece in waiting], user=place.user_hash)
            for piece, vector in zip(waiting, vectors, strict=True):
                piece.vector = vector
        return [self._sealed(place, document, own) for document, own in zip(documents, pieces, strict=True)]

    def _pieces(self, document: OpenedDocument) -> list[_Piece]:
        if self._keeps_slices:
            return [self._kept(chunk) for chunk in document.chunks]
        assert self._embedder is not None
        known = {(chunk.slice.start, chunk.slice.end): chunk for chunk in document.chunks}
        pieces = []
        for piece in iter_chunks(document.text, self._embedder.tokenizer, **asdict(self._chunking)):
            same = known.get((piece.start, piece.end))
            pieces.append(
                self._kept(same) if same else _Piece(uuid7(), piece, _entities_of(piece, document.chunks), None, None)
            )
        return pieces

    def _kept(self, chunk: OpenedChunk) -> _Piece:
        searchable = chunk.searchable if self._same_search_key else None
        return _Piece(chunk.id, chunk.slice, chunk.metadata, chunk.vector, searchable)

    def _sealed(self, place: Place, document: OpenedDocument, pieces: list[_Piece]) -> Copy:
        key = place.data_key
        mac = sealing.content_mac(key, document.text)
        name = document.speaker
        copy = Copy(
            doc_id=document.doc_id,
            version=document.version,
            origin=document.origin,
            char_count=len(document.text),
            expires_at=document.expires_at,
            updated_at=document.updated_at,
            generation=key.generation,
            sources=document.sources,
            speaker_id=None if name is None else speaker_id(place.search_key, name),
            meta_cipher=sealing.seal_document_metadata(key, document.doc_id, mac, document.origin, document.metadata),
            content_mac=mac,
            speaker_cipher=None if name is None else sealing.seal_speaker(key, document.doc_id, mac, name),
        )
        if pieces:
            copy.chunks = list(_sealed_chunks(place, document, pieces))
        return copy


def _sealed_chunks(place: Place, document: OpenedDocument, pieces: list[_Piece]) -> list[SealedChunk]:
    key, search_key = place.data_key, place.search_key
    vectors = np.stack([piece.vector for piece in pieces if piece.vector is not None])
    units = unit_vectors(vectors, rows=len(pieces), dimension=dimension_of(place.space))
    searchable = half_vectors(protect(search_key, units))
    blinder = Blinder(search_key.subkey(Purpose.WORDS)) if settings.MEMORY_LEXICAL else None
    chunks = []
    for index, piece in enumerate(pieces):
        compared = piece.searchable or searchable[index]
        where = sealing.Place(
            piece.id, document.doc_id, index, piece.slice.start, piece.slice.end, document.origin
        )  # fmt: skip
        words = terms(piece.slice.text, settings.MEMORY_LEXICAL_LANGUAGE) if blinder else {}
        chunks.append(
            SealedChunk(
                id=piece.id,
                start=piece.slice.start,
                end=piece.slice.end,
                embedding=compared,
                text_cipher=sealing.seal_text(key, where, piece.slice.text),
                meta_cipher=sealing.seal_chunk_metadata(key, piece.id, piece.metadata),
                emb_cipher=sealing.seal_vector(key, piece.id, vectors[index], compared),
                terms=blinder.blind(words) if blinder else None,
            )
        )
    return chunks


def _entities_of(piece: Slice, chunks: Sequence[OpenedChunk]) -> dict:
    """What was found in the chunks of before, as far as it stands in `piece` whole: mentions are by document."""
    overlapping = [each for each in chunks if each.slice.start < piece.end and piece.start < each.slice.end]
    if not any(ENTITIES in chunk.metadata for chunk in overlapping):
        return {}
    mentions: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for chunk in overlapping:
        for entity in chunk.metadata.get(ENTITIES, ()):
            for mention in entity["mentions"]:
                if piece.start <= mention["start"] and mention["end"] <= piece.end:
                    mentions[entity["text"], entity["label"]].add((mention["start"], mention["end"]))
    return {
        ENTITIES: [
            {
                "text": text,
                "label": label,
                "count": len(spans),
                "mentions": [{"start": start, "end": end} for start, end in sorted(spans)],
            }
            for (text, label), spans in sorted(mentions.items(), key=lambda found: -len(found[1]))
        ]
    }
