"""What each sealed column holds, which sub-key seals it and what it is bound to.

Associated data is `(user_hash, table.column, row id, generation)`, length-prefixed: a blob moved
to another user, column, row or generation does not open. More is bound where more depends on it:
a text to its document and offsets, which its citation repeats; a document's metadata to the keyed
digest of the text it came with, as is its speaker's name; text and metadata to their origin, which answers repeat; a
vector to the SHA-256 of the searchable one beside it. `key` is always the data key of the generation that the row
names.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from pgvector import HalfVector

from memory.formats.moments import microseconds
from memory.sealing.user_keys import DataKey, Purpose
from memory.security import associated_data, open_sealed, seal

TEXT_COLUMN = "memory_chunks.text_cipher"
CHUNK_META_COLUMN = "memory_chunks.meta_cipher"
EMBEDDING_COLUMN = "memory_chunks.emb_cipher"
DOCUMENT_META_COLUMN = "memory_documents.meta_cipher"
SPEAKER_COLUMN = "memory_documents.speaker_cipher"
ANSWER_COLUMN = "memory_idempotency.answer_cipher"


@dataclass(frozen=True)
class Origin:
    """Where a text came from and when: what stands in clear beside it and an answer repeats. `created_at` is aware."""

    source: str
    thread_id: str | None
    created_at: datetime
    sequence: int = 0

    def fields(self) -> tuple[str | int, ...]:
        """As they are bound: the time in microseconds since 1970, which is what PostgreSQL keeps; no thread is ""."""
        return self.source, self.thread_id or "", microseconds(self.created_at), self.sequence


@dataclass(frozen=True)
class Place:
    """Which chunk this is, what its citation says and where it is from: sealed into the text, so that none changes."""

    chunk_id: UUID
    doc_id: str
    chunk_index: int
    start: int
    end: int
    origin: Origin


def seal_text(key: DataKey, place: Place, text: str) -> bytes:
    """A chunk's text, UTF-8, sealed for `memory_chunks.text_cipher`."""
    return seal(text.encode(), _text_aad(key, place), key.cipher(Purpose.TEXT))


def open_text(key: DataKey, place: Place, blob: bytes) -> str:
    """The text of a chunk. Raises InvalidTag, also when the chunk stands in another place than it was sealed for."""
    return open_sealed(blob, _text_aad(key, place), key.cipher(Purpose.TEXT)).decode()


def seal_chunk_metadata(key: DataKey, chunk_id: UUID, metadata: dict[str, Any]) -> bytes:
    """What belongs to one chunk alone (its entities, say), as JSON, sealed."""
    return _seal_json(key, _aad(key, CHUNK_META_COLUMN, chunk_id.bytes), metadata)


def open_chunk_metadata(key: DataKey, chunk_id: UUID, blob: bytes) -> dict[str, Any]:
    """The inverse of `seal_chunk_metadata`. Raises InvalidTag."""
    return _open_json(key, _aad(key, CHUNK_META_COLUMN, chunk_id.bytes), blob)


def seal_document_metadata(key: DataKey, doc_id: str, mac: bytes, origin: Origin, metadata: dict[str, Any]) -> bytes:
    """The product's own metadata of a document, as JSON, sealed to its origin and this version of its text (`mac`)."""
    return _seal_json(key, _aad(key, DOCUMENT_META_COLUMN, doc_id, mac, *origin.fields()), metadata)


def open_document_metadata(key: DataKey, doc_id: str, mac: bytes, origin: Origin, blob: bytes) -> dict[str, Any]:
    """The inverse of `seal_document_metadata`. Raises InvalidTag."""
    return _open_json(key, _aad(key, DOCUMENT_META_COLUMN, doc_id, mac, *origin.fields()), blob)


def seal_speaker(key: DataKey, doc_id: str, mac: bytes, name: str) -> bytes:
    """The name of whoever said a document, UTF-8, sealed to that document and this version of its text (`mac`)."""
    return seal(name.encode(), _aad(key, SPEAKER_COLUMN, doc_id, mac), key.cipher(Purpose.META))


def open_speaker(key: DataKey, doc_id: str, mac: bytes, blob: bytes) -> str:
    """The inverse of `seal_speaker`. Raises InvalidTag."""
    return open_sealed(blob, _aad(key, SPEAKER_COLUMN, doc_id, mac), key.cipher(Purpose.META)).decode()


def seal_vector(key: DataKey, chunk_id: UUID, vector: np.ndarray, searchable: HalfVector) -> bytes:
    """The model's own vector, little-endian float32[d], sealed and bound to the searchable one."""
    aad = _aad(key, EMBEDDING_COLUMN, chunk_id.bytes, _digest(searchable))
    return seal(np.asarray(vector, "<f4").tobytes(), aad, key.cipher(Purpose.EMBEDDING))


def open_vector(key: DataKey, chunk_id: UUID, blob: bytes, searchable: HalfVector) -> np.ndarray:
    """float32[d]. Raises InvalidTag, also when `searchable` is not the vector it was sealed beside."""
    aad = _aad(key, EMBEDDING_COLUMN, chunk_id.bytes, _digest(searchable))
    return np.frombuffer(open_sealed(blob, aad, key.cipher(Purpose.EMBEDDING)), "<f4")


def seal_answer(key: DataKey, key_mac: bytes, body_mac: bytes, answer: bytes) -> bytes:
    """The first answer to an Idempotency-Key, sealed to that key and to its request."""
    return seal(answer, _aad(key, ANSWER_COLUMN, key_mac, body_mac), key.cipher(Purpose.META))


def open_answer(key: DataKey, key_mac: bytes, body_mac: bytes, blob: bytes) -> bytes:
    """The inverse of `seal_answer`. Raises InvalidTag."""
    return open_sealed(blob, _aad(key, ANSWER_COLUMN, key_mac, body_mac), key.cipher(Purpose.META))


def content_mac(key: DataKey, text: str) -> bytes:
    """HMAC-SHA256 of a document's text under the user's own key: no unkeyed digest of content is ever kept."""
    return hmac.digest(key.subkey(Purpose.CONTENT_MAC), text.encode(), "sha256")


def _aad(key: DataKey, column: str, row_id: bytes | str, *more: bytes | str | int) -> bytes:
    return associated_data(key.user_hash, column, row_id, key.generation, *more)


def _text_aad(key: DataKey, place: Place) -> bytes:
    where = place.chunk_id.bytes, place.doc_id, place.chunk_index, place.start, place.end
    return _aad(key, TEXT_COLUMN, *where, *place.origin.fields())


def _digest(searchable: HalfVector) -> bytes:
    return hashlib.sha256(searchable.to_binary()).digest()


def _seal_json(key: DataKey, aad: bytes, value: dict[str, Any]) -> bytes:
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return seal(raw, aad, key.cipher(Purpose.META))


def _open_json(key: DataKey, aad: bytes, blob: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(open_sealed(blob, aad, key.cipher(Purpose.META)))
    return value
