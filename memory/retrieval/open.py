"""Opening the few rows that go on. What does not open is set aside and fails the request."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from memory.admission.deadline import require_time
from memory.errors import DecryptionFailed, KeyUnavailable
from memory.retrieval.candidate import Candidate
from memory.sealing import columns as sealing
from memory.sealing.keyring import TenantKeys
from memory.sealing.quarantine import (
    quarantine_document,
    quarantine_keyless,
    quarantine_metadata,
    quarantine_text,
)
from memory.security import InvalidTag


class SealedRow(Protocol):
    """A row of memory_chunks, however it was found."""

    chunk_id: UUID
    generation: int
    text_cipher: bytes
    meta_cipher: bytes

    @property
    def place(self) -> sealing.Place: ...


def open_candidates(keys: TenantKeys, candidates: list[Candidate]) -> None:
    """Open each candidate's text and metadata in place.

    Its metadata is its document's with what was found out about the chunk (`entities`) beside it; a member of
    the same name in the product's own metadata stands, so that what was sent always comes back.

    Raises DecryptionFailed for a blob that does not open and KeyUnavailable for a row of a key
    generation that is not at hand, each after the row was quarantined where it is the row that is
    wrong, so that later searches skip it and say so; Overloaded once the request's deadline has passed.
    """
    for candidate in candidates:
        require_time()
        candidate.text = open_text(keys, candidate)
        candidate.metadata = open_metadata(keys, candidate) | _open_document_metadata(keys, candidate)


def open_text(keys: TenantKeys, row: SealedRow) -> str:
    """The text of one chunk; raises as `open_candidates`."""
    return open_slice(keys, row.place, row.generation, row.text_cipher)


def open_slice(keys: TenantKeys, place: sealing.Place, generation: int, text_cipher: bytes) -> str:
    """As `open_text`, for a row that was not read as one of those."""
    if generation != keys.generation:
        quarantine_keyless(keys.user_hash, place.chunk_id)
        raise KeyUnavailable()
    try:
        return sealing.open_text(keys, place, text_cipher)
    except InvalidTag:
        quarantine_text(keys.user_hash, place.chunk_id, text_cipher)
        raise DecryptionFailed() from None


def open_metadata(keys: TenantKeys, row: SealedRow) -> dict:
    """One chunk's own metadata; raises as `open_candidates`."""
    try:
        return sealing.open_chunk_metadata(keys, row.chunk_id, row.meta_cipher)
    except (InvalidTag, ValueError):
        quarantine_metadata(keys.user_hash, row.chunk_id, row.meta_cipher)
        raise DecryptionFailed() from None


def _open_document_metadata(keys: TenantKeys, candidate: Candidate) -> dict:
    if candidate.document_meta_cipher is None:
        return {}
    try:
        return sealing.open_document_metadata(
            keys, candidate.doc_id, candidate.document_mac or b"", candidate.document_meta_cipher
        )
    except (InvalidTag, ValueError):
        quarantine_document(keys.user_hash, candidate.doc_id, candidate.document_meta_cipher)
        raise DecryptionFailed() from None
