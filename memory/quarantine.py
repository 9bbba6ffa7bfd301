"""Setting rows aside that did not open, so that one damaged row fails one request and not every one.

Searches skip quarantined chunks and say `degraded: ["quarantined"]`. Writing the document again heals it.
"""

from __future__ import annotations

import logging
from uuid import UUID

from memory import metrics
from memory.rls import tenant_transaction

logger = logging.getLogger(__name__)

_SET_ASIDE = "UPDATE memory_chunks SET quarantined_at = now() WHERE user_hash = %s AND quarantined_at IS NULL"


def quarantine_chunk(user_hash: str, chunk_id: UUID, column: str) -> None:
    """Set one chunk aside because `column` of its row did not open; a transaction of its own."""
    _set_aside(user_hash, " AND id = %s", chunk_id, column)


def quarantine_document(user_hash: str, doc_id: str) -> None:
    """Set every chunk of a document aside because the document's metadata did not open."""
    _set_aside(user_hash, " AND doc_id = %s", doc_id, "document_meta_cipher")


def _set_aside(user_hash: str, condition: str, value: UUID | str, column: str) -> None:
    metrics.decrypt_failed.labels(column).inc()
    with tenant_transaction(user_hash, write=True) as tx:
        changed = tx.execute(_SET_ASIDE + condition, [user_hash, value])
        tx.sync()
        logger.error("a sealed %s did not open; chunks quarantined: %d", column, changed.rowcount)
