"""Opening the few candidates that go on. What does not open is set aside and fails the request."""

from __future__ import annotations

from memory import sealing
from memory.errors import DecryptionFailed, KeyUnavailable
from memory.keyring import TenantKeys
from memory.quarantine import quarantine_document, quarantine_keyless, quarantine_metadata, quarantine_text
from memory.retrieval.candidate import Candidate
from memory.security import InvalidTag


def open_candidates(keys: TenantKeys, candidates: list[Candidate]) -> None:
    """Open each candidate's text and metadata in place.

    Raises DecryptionFailed for a blob that does not open and KeyUnavailable for a row of a key
    generation that is not at hand, each after the row was quarantined where it is the row that is
    wrong, so that later searches skip it and say so.
    """
    for candidate in candidates:
        _open(keys, candidate)


def _open(keys: TenantKeys, candidate: Candidate) -> None:
    if candidate.generation != keys.generation:
        quarantine_keyless(keys.user_hash, candidate.chunk_id)
        raise KeyUnavailable()
    try:
        candidate.text = sealing.open_text(keys, candidate.place, candidate.text_cipher)
    except InvalidTag:
        quarantine_text(keys.user_hash, candidate.chunk_id, candidate.text_cipher)
        raise DecryptionFailed() from None
    try:
        candidate.metadata = sealing.open_chunk_metadata(keys, candidate.chunk_id, candidate.meta_cipher)
    except (InvalidTag, ValueError):
        quarantine_metadata(keys.user_hash, candidate.chunk_id, candidate.meta_cipher)
        raise DecryptionFailed() from None
    if candidate.document_meta_cipher is None:
        return
    try:
        document = sealing.open_document_metadata(
            keys, candidate.doc_id, candidate.document_mac, candidate.document_meta_cipher
        )
    except (InvalidTag, ValueError):
        quarantine_document(keys.user_hash, candidate.doc_id, candidate.document_meta_cipher)
        raise DecryptionFailed() from None
    candidate.metadata = {**document, **candidate.metadata}
