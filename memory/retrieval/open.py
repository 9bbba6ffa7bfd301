"""Opening the few candidates that go on. What does not open is set aside and fails the request."""

from __future__ import annotations

import logging

from memory import metrics, sealing
from memory.errors import DecryptionFailed, KeyUnavailable
from memory.keyring import TenantKeys
from memory.retrieval.candidate import Candidate
from memory.rls import tenant_transaction
from memory.security import InvalidTag

logger = logging.getLogger(__name__)

_QUARANTINE = """
UPDATE memory_chunks SET quarantined_at = now() WHERE user_hash = %s AND id = %s AND quarantined_at IS NULL"""


def open_candidates(keys: TenantKeys, candidates: list[Candidate]) -> None:
    """Open each candidate's text and metadata in place.

    Raises DecryptionFailed for a blob that does not open, after its row was quarantined, so that
    later searches skip it and say so; KeyUnavailable for a row of a key generation that is not at hand.
    """
    for candidate in candidates:
        if candidate.generation != keys.generation:
            raise KeyUnavailable()
        column = "text_cipher"
        try:
            candidate.text = sealing.open_text(keys, candidate.chunk_id, candidate.text_cipher)
            column = "meta_cipher"
            candidate.metadata = sealing.open_chunk_metadata(keys, candidate.chunk_id, candidate.meta_cipher)
            if candidate.document_meta_cipher is not None:
                document = sealing.open_document_metadata(keys, candidate.doc_id, candidate.document_meta_cipher)
                candidate.metadata = {**document, **candidate.metadata}
        except (InvalidTag, ValueError):
            quarantine(keys.user_hash, candidate, column)
            raise DecryptionFailed() from None


def quarantine(user_hash: str, candidate: Candidate, column: str) -> None:
    """Set one chunk aside, in a transaction of its own."""
    metrics.decrypt_failed.labels(column).inc()
    with tenant_transaction(user_hash, write=True) as tx:
        tx.execute(_QUARANTINE, [user_hash, candidate.chunk_id])
    logger.error("a sealed %s did not open; chunk %s is quarantined", column, candidate.chunk_id)
