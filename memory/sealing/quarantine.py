"""Setting rows aside that did not open, so that one damaged row fails one request and not every one.

Searches skip quarantined chunks and say `degraded: ["quarantined"]`. Writing the document again heals it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from uuid import UUID

from memory import metrics
from memory.rls import tenant_transaction

logger = logging.getLogger(__name__)

_SET_ASIDE = "UPDATE memory_chunks c SET quarantined_at = now() WHERE user_hash = %s AND quarantined_at IS NULL"

# Whether some of a user's rows are set aside, so that an answer may be missing them.
ANY_QUARANTINED = "SELECT EXISTS (SELECT FROM memory_chunks WHERE user_hash = %s AND quarantined_at IS NOT NULL)"

# Each names what was read, so that a row written anew in the meantime is left alone.
_TEXT = " AND id = %s AND text_cipher = %s"
_META = " AND id = %s AND meta_cipher = %s"
_KEYLESS = """ AND id = %s AND NOT EXISTS (
    SELECT FROM memory_data_keys k WHERE k.user_hash = c.user_hash AND k.generation = c.generation)"""
_DOCUMENT = """ AND doc_id = %s AND EXISTS (
    SELECT FROM memory_documents d
    WHERE d.user_hash = c.user_hash AND d.doc_id = c.doc_id AND d.meta_cipher = %s)"""


def quarantine_text(user_hash: str, chunk_id: UUID, blob: bytes) -> None:
    """Set one chunk aside because its text did not open."""
    _set_aside(user_hash, _TEXT, [chunk_id, blob], "text_cipher")


def quarantine_metadata(user_hash: str, chunk_id: UUID, blob: bytes) -> None:
    """Set one chunk aside because its own metadata did not open."""
    _set_aside(user_hash, _META, [chunk_id, blob], "meta_cipher")


def quarantine_keyless(user_hash: str, chunk_id: UUID) -> None:
    """Set one chunk aside if it claims a key generation that its user does not have."""
    _set_aside(user_hash, _KEYLESS, [chunk_id], "generation")


def quarantine_document(user_hash: str, doc_id: str, blob: bytes) -> None:
    """Set every chunk of a document aside because the document's metadata did not open."""
    _set_aside(user_hash, _DOCUMENT, [doc_id, blob], "document_meta_cipher")


def _set_aside(user_hash: str, condition: str, values: Sequence[UUID | str | bytes], column: str) -> None:
    """In a transaction of its own."""
    metrics.decrypt_failed.labels(column).inc()
    with tenant_transaction(user_hash, write=True) as tx:
        changed = tx.execute(_SET_ASIDE + condition, [user_hash, *values])
        tx.sync()
        logger.error("a sealed %s did not open; chunks quarantined: %d", column, changed.rowcount)
