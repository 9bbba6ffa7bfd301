"""Opening the rows that go on. All that do not open are quarantined at once, and fail the request together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

from memory.admission.deadline import require_time
from memory.errors import DecryptionFailed, KeyUnavailable, MemoryServiceError
from memory.lexical.speakers import speaker_id
from memory.retrieval.candidate import Candidate
from memory.retrieval.chunks import StoredChunk
from memory.sealing import columns as sealing
from memory.sealing.profile import TenantProfile
from memory.sealing.quarantine import Damage, quarantine
from memory.sealing.user_keys import DataKey
from memory.security import InvalidTag


class SealedRow(Protocol):
    """A row of memory_chunks, however it was found."""

    chunk_id: UUID
    generation: int
    text_cipher: bytes

    @property
    def place(self) -> sealing.Place: ...


class SealedMetadataRow(SealedRow, Protocol):
    """One that was read with its metadata."""

    meta_cipher: bytes


class Opening:
    """Opens one user's rows inside a block, which raises at its end for all that did not open.

    What does not open is "" or {} until then, so nothing opened may leave the block before. At its end the damaged
    rows are quarantined where it is the rows that are wrong, so that later searches skip them and say so; then it
    raises DecryptionFailed, or KeyUnavailable where all that failed are rows of a key generation that is not at hand.
    A block that ends by another exception quarantines nothing.
    """

    def __init__(self, profile: TenantProfile):
        self.profile = profile
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
        key = self._key(place.chunk_id, generation)
        if key is None:
            return ""
        try:
            return sealing.open_text(key, place, text_cipher)
        except InvalidTag:
            self._damaged[Damage("text_cipher", place.chunk_id, text_cipher)] = None
            return ""

    def metadata(self, row: SealedMetadataRow) -> dict:
        """One chunk's own metadata."""
        key = self._key(row.chunk_id, row.generation)
        if key is None:
            return {}
        try:
            return sealing.open_chunk_metadata(key, row.chunk_id, row.meta_cipher)
        except (InvalidTag, ValueError):
            self._damaged[Damage("meta_cipher", row.chunk_id, row.meta_cipher)] = None
            return {}

    def document_metadata(
        self, doc_id: str, generation: int, content_mac: bytes, origin: sealing.Origin, meta_cipher: bytes
    ) -> dict:
        """A document's metadata. Where its generation is not at hand, KeyUnavailable at the end of the block."""
        if generation not in self.profile.generations:
            self.fail(KeyUnavailable())
            return {}
        try:
            return sealing.open_document_metadata(
                self.profile.data_key(generation), doc_id, content_mac, origin, meta_cipher
            )
        except (InvalidTag, ValueError):
            self._damaged[Damage("document_meta_cipher", doc_id, meta_cipher)] = None
            return {}

    def speaker(self, doc_id: str, generation: int, content_mac: bytes, name_cipher: bytes | None) -> str | None:
        """The name of whoever said a document, None where nobody is named; its generation as in `document_metadata`."""
        if name_cipher is None:
            return None
        if generation not in self.profile.generations:
            self.fail(KeyUnavailable())
            return None
        try:
            return sealing.open_speaker(self.profile.data_key(generation), doc_id, content_mac, name_cipher)
        except (InvalidTag, ValueError):
            self._damaged[Damage("speaker_cipher", doc_id, name_cipher)] = None
            return None

    def candidate_speaker(self, candidate: Candidate) -> str | None:
        """The name of whoever said a candidate. That its row claims somebody else than its document is damage too."""
        name = self.speaker(
            candidate.doc_id,
            candidate.document_generation or 0,
            candidate.document_mac or b"",
            candidate.speaker_cipher,
        )
        if name is None and candidate.speaker_cipher is not None:
            return None
        sealed = None if name is None else speaker_id(self.profile.search_key, name)
        if sealed != candidate.speaker_id:
            self._damaged[Damage("speaker_cipher", candidate.doc_id, candidate.speaker_cipher)] = None
        return name

    def fail(self, error: MemoryServiceError) -> None:
        """Raise `error` at the end of the block where nothing worse does: no row can be quarantined for it."""
        self._error = self._error or error

    def _key(self, chunk_id: UUID, generation: int) -> DataKey | None:
        """The data key of a chunk's row; None, which is damage, where the row claims a generation that is not live."""
        if generation not in self.profile.generations:
            self._damaged[Damage("generation", chunk_id)] = None
            return None
        return self.profile.data_key(generation)

    def _raise_for_all(self) -> None:
        if self._damaged:
            quarantine(self.profile.user_hash, self._damaged)
            if any(damage.column != "generation" for damage in self._damaged):
                raise DecryptionFailed()
            raise KeyUnavailable()
        if self._error:
            raise self._error


def open_candidates(profile: TenantProfile, candidates: Iterable[Candidate]) -> None:
    """Open each candidate's text and metadata in place.

    Its metadata is its document's with what was found out about the chunk (`entities`) beside it; a member of
    the same name in the product's own metadata stands, so that what was sent always comes back.

    Raises as `Opening`, and Overloaded once the request's deadline has passed.
    """
    with Opening(profile) as opening:
        for candidate in candidates:
            require_time()
            candidate.text = opening.text(candidate)
            candidate.metadata = opening.metadata(candidate)
            if candidate.document_meta_cipher is not None and candidate.document_generation is not None:
                candidate.speaker = opening.candidate_speaker(candidate)
                candidate.metadata |= opening.document_metadata(
                    candidate.doc_id, candidate.document_generation, candidate.document_mac or b"", candidate.origin,
                    candidate.document_meta_cipher,
                )  # fmt: skip


def open_texts(profile: TenantProfile, chunks: Iterable[StoredChunk]) -> None:
    """Open each chunk's text in place; raises as `open_candidates`."""
    with Opening(profile) as opening:
        for chunk in chunks:
            require_time()
            chunk.text = opening.text(chunk)
