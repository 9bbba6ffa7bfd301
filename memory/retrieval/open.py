"""Opening the rows that go on. All that do not open are quarantined at once, and fail the request together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

from memory.admission.deadline import require_time
from memory.errors import DecryptionFailed, KeyUnavailable, MemoryServiceError
from memory.retrieval.candidate import Candidate
from memory.retrieval.chunks import StoredChunk
from memory.sealing import columns as sealing
from memory.sealing.keyring import TenantKeys
from memory.sealing.quarantine import Damage, quarantine
from memory.security import InvalidTag


class SealedRow(Protocol):
    """A row of memory_chunks, however it was found."""

    chunk_id: UUID
    generation: int
    text_cipher: bytes
    meta_cipher: bytes

    @property
    def place(self) -> sealing.Place: ...


class Opening:
    """Opens one user's rows inside a block, which raises at its end for all that did not open.

    What does not open is "" or {} until then, so nothing opened may leave the block before. At its end the damaged
    rows are quarantined where it is the rows that are wrong, so that later searches skip them and say so; then it
    raises DecryptionFailed, or KeyUnavailable where all that failed are rows of a key generation that is not at hand.
    A block that ends by another exception quarantines nothing.
    """

    def __init__(self, keys: TenantKeys):
        self.keys = keys
        # In order, each value once however many rows it was read with.
        self._damaged: dict[Damage, None] = {}
        self._error: MemoryServiceError | None = None

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, exc_type, *exc_info) -> None:
        if exc_type is None:
            self._raise_for_all()

    def text(self, row: SealedRow) -> str:
        """The text of one chunk."""
        return self.slice(row.place, row.generation, row.text_cipher)

    def slice(self, place: sealing.Place, generation: int, text_cipher: bytes) -> str:
        """As `text`, for a row that was not read as one of those."""
        if not self._has_key(place.chunk_id, generation):
            return ""
        try:
            return sealing.open_text(self.keys, place, text_cipher)
        except InvalidTag:
            self._damaged[Damage("text_cipher", place.chunk_id, text_cipher)] = None
            return ""

    def metadata(self, row: SealedRow) -> dict:
        """One chunk's own metadata."""
        if not self._has_key(row.chunk_id, row.generation):
            return {}
        try:
            return sealing.open_chunk_metadata(self.keys, row.chunk_id, row.meta_cipher)
        except (InvalidTag, ValueError):
            self._damaged[Damage("meta_cipher", row.chunk_id, row.meta_cipher)] = None
            return {}

    def document_metadata(self, doc_id: str, content_mac: bytes, meta_cipher: bytes) -> dict:
        """A document's metadata, whose row is of the keys' generation."""
        try:
            return sealing.open_document_metadata(self.keys, doc_id, content_mac, meta_cipher)
        except (InvalidTag, ValueError):
            self._damaged[Damage("document_meta_cipher", doc_id, meta_cipher)] = None
            return {}

    def fail(self, error: MemoryServiceError) -> None:
        """Raise `error` at the end of the block where nothing worse does: no row can be quarantined for it."""
        self._error = self._error or error

    def _has_key(self, chunk_id: UUID, generation: int) -> bool:
        if generation != self.keys.generation:
            self._damaged[Damage("generation", chunk_id)] = None
            return False
        return True

    def _raise_for_all(self) -> None:
        if self._damaged:
            quarantine(self.keys.user_hash, self._damaged)
            if any(damage.column != "generation" for damage in self._damaged):
                raise DecryptionFailed()
            raise KeyUnavailable()
        if self._error:
            raise self._error


def open_candidates(keys: TenantKeys, candidates: Iterable[Candidate]) -> None:
    """Open each candidate's text and metadata in place.

    Its metadata is its document's with what was found out about the chunk (`entities`) beside it; a member of
    the same name in the product's own metadata stands, so that what was sent always comes back.

    Raises as `Opening`, and Overloaded once the request's deadline has passed.
    """
    with Opening(keys) as opening:
        for candidate in candidates:
            require_time()
            candidate.text = opening.text(candidate)
            candidate.metadata = opening.metadata(candidate)
            if candidate.document_meta_cipher is not None and candidate.generation == keys.generation:
                candidate.metadata |= opening.document_metadata(
                    candidate.doc_id, candidate.document_mac or b"", candidate.document_meta_cipher
                )


def open_texts(keys: TenantKeys, chunks: Iterable[StoredChunk]) -> None:
    """Open each chunk's text in place; raises as `open_candidates`."""
    with Opening(keys) as opening:
        for chunk in chunks:
            require_time()
            chunk.text = opening.text(chunk)
