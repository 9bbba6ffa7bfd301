"""Opening the few candidates that go on. What does not open is set aside and fails the request."""

from __future__ import annotations

from memory import sealing
from memory.errors import DecryptionFailed, KeyUnavailable
from memory.keyring import TenantKeys
from memory.quarantine import quarantine_chunk, quarantine_document
from memory.retrieval.candidate import Candidate
from memory.security import InvalidTag


def open_candidates(keys: TenantKeys, candidates: list[Candidate]) -> None:
    """Open each candidate's text and metadata in place.

    Raises DecryptionFailed for a blob that does not open and KeyUnavailable for a row of a key
    generation the user does not have, each after the row was quarantined, so that later searches
    skip it and say so.
    """
    for candidate in candidates:
        _open(keys, candidate)


def _open(keys: TenantKeys, candidate: Candidate) -> None:
    if candidate.generation != keys.generation:
        quarantine_chunk(keys.user_hash, candidate.chunk_id, "generation")
        raise KeyUnavailable()
    column = "text_cipher"
    try:
        candidate.text = sealing.open_text(keys, candidate.chunk_id, candidate.text_cipher)
        column = "meta_cipher"
        candidate.metadata = sealing.open_chunk_metadata(keys, candidate.chunk_id, candidate.meta_cipher)
    except (InvalidTag, ValueError):
        quarantine_chunk(keys.user_hash, candidate.chunk_id, column)
        raise DecryptionFailed() from None
    if candidate.document_meta_cipher is None:
        return
    try:
        document = sealing.open_document_metadata(keys, candidate.doc_id, candidate.document_meta_cipher)
    except (InvalidTag, ValueError):
        quarantine_document(keys.user_hash, candidate.doc_id)
        raise DecryptionFailed() from None
    candidate.metadata = {**document, **candidate.metadata}
