"""What each sealed column holds, which sub-key seals it and what it is bound to.

Associated data is `(user_hash, table.column, row id, generation)`, length-prefixed: a blob moved
to another user, column, row or generation does not open. More is bound where more depends on it:
a text to its document and offsets, which its citation repeats; a document's metadata to the keyed
digest of the text it came with; a vector to the SHA-256 of the searchable one beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from pgvector import HalfVector

from memory.sealing.keyring import Purpose, TenantKeys
from memory.security import associated_data, open_sealed, seal

TEXT_COLUMN = "memory_chunks.text_cipher"
CHUNK_META_COLUMN = "memory_chunks.meta_cipher"
EMBEDDING_COLUMN = "memory_chunks.emb_cipher"
DOCUMENT_META_COLUMN = "memory_documents.meta_cipher"
ANSWER_COLUMN = "memory_idempotency.answer_cipher"


@dataclass(frozen=True)
class Place:
    """Which chunk this is and what its citation says: sealed into the text, so that neither can be changed."""

    chunk_id: UUID
    doc_id: str
    chunk_index: int
    start: int
    end: int


def seal_text(keys: TenantKeys, place: Place, text: str) -> bytes:
    """A chunk's text, UTF-8, sealed for `memory_chunks.text_cipher`."""
    return seal(text.encode(), _text_aad(keys, place), keys.cipher(Purpose.TEXT))


def open_text(keys: TenantKeys, place: Place, blob: bytes) -> str:
    """The text of a chunk. Raises InvalidTag, also when the chunk stands in another place than it was sealed for."""
    return open_sealed(blob, _text_aad(keys, place), keys.cipher(Purpose.TEXT)).decode()


def seal_chunk_metadata(keys: TenantKeys, chunk_id: UUID, metadata: dict[str, Any]) -> bytes:
    """What belongs to one chunk alone (its entities, say), as JSON, sealed."""
    return _seal_json(keys, _aad(keys, CHUNK_META_COLUMN, chunk_id.bytes), metadata)


def open_chunk_metadata(keys: TenantKeys, chunk_id: UUID, blob: bytes) -> dict[str, Any]:
    """The inverse of `seal_chunk_metadata`. Raises InvalidTag."""
    return _open_json(keys, _aad(keys, CHUNK_META_COLUMN, chunk_id.bytes), blob)


def seal_document_metadata(keys: TenantKeys, doc_id: str, mac: bytes, metadata: dict[str, Any]) -> bytes:
    """The product's own metadata of a document, as JSON, sealed to this version of its text (`mac`)."""
    return _seal_json(keys, _aad(keys, DOCUMENT_META_COLUMN, doc_id, mac), metadata)


def open_document_metadata(keys: TenantKeys, doc_id: str, mac: bytes, blob: bytes) -> dict[str, Any]:
    """The inverse of `seal_document_metadata`. Raises InvalidTag."""
    return _open_json(keys, _aad(keys, DOCUMENT_META_COLUMN, doc_id, mac), blob)


def seal_vector(keys: TenantKeys, chunk_id: UUID, vector: np.ndarray, searchable: HalfVector) -> bytes:
    """The model's own vector, little-endian float32[d], sealed and bound to the searchable one."""
    aad = _aad(keys, EMBEDDING_COLUMN, chunk_id.bytes, _digest(searchable))
    return seal(np.asarray(vector, "<f4").tobytes(), aad, keys.cipher(Purpose.EMBEDDING))


def open_vector(keys: TenantKeys, chunk_id: UUID, blob: bytes, searchable: HalfVector) -> np.ndarray:
    """float32[d]. Raises InvalidTag, also when `searchable` is not the vector it was sealed beside."""
    aad = _aad(keys, EMBEDDING_COLUMN, chunk_id.bytes, _digest(searchable))
    return np.frombuffer(open_sealed(blob, aad, keys.cipher(Purpose.EMBEDDING)), "<f4")


def seal_answer(keys: TenantKeys, key_mac: bytes, body_mac: bytes, status: int, body: bytes) -> bytes:
    """The first answer to an Idempotency-Key, sealed to that key, to its request and to its status."""
    return seal(body, _aad(keys, ANSWER_COLUMN, key_mac, body_mac, status), keys.cipher(Purpose.META))


def open_answer(keys: TenantKeys, key_mac: bytes, body_mac: bytes, status: int, blob: bytes) -> bytes:
    """The inverse of `seal_answer`. Raises InvalidTag."""
    return open_sealed(blob, _aad(keys, ANSWER_COLUMN, key_mac, body_mac, status), keys.cipher(Purpose.META))


def content_mac(keys: TenantKeys, text: str) -> bytes:
    """HMAC-SHA256 of a document's text under the user's own key: no unkeyed digest of content is ever kept."""
    return hmac.digest(keys.subkey(Purpose.CONTENT_MAC), text.encode(), "sha256")


def _aad(keys: TenantKeys, column: str, row_id: bytes | str, *more: bytes | str | int) -> bytes:
    return associated_data(keys.user_hash, column, row_id, keys.generation, *more)


def _text_aad(keys: TenantKeys, place: Place) -> bytes:
    return _aad(keys, TEXT_COLUMN, place.chunk_id.bytes, place.doc_id, place.chunk_index, place.start, place.end)


def _digest(searchable: HalfVector) -> bytes:
    return hashlib.sha256(searchable.to_binary()).digest()


def _seal_json(keys: TenantKeys, aad: bytes, value: dict[str, Any]) -> bytes:
    raw = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return seal(raw, aad, keys.cipher(Purpose.META))


def _open_json(keys: TenantKeys, aad: bytes, blob: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(open_sealed(blob, aad, keys.cipher(Purpose.META)))
    return value
