"""Quarantine of rows that did not open, or cannot be compared, so that damage fails one request and not every one.

Searches skip quarantined chunks and say `degraded: ["quarantined"]`. Writing the document again heals it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from memory import metrics
from memory.embedding.spaces import dimension_of
from memory.rls import tenant_transaction

logger = logging.getLogger(__name__)

# Whether some of a user's rows are quarantined, so that an answer may be missing them.
ANY_QUARANTINED = "SELECT EXISTS (SELECT FROM memory_chunks WHERE user_hash = %s AND quarantined_at IS NOT NULL)"

# Of a dimension that no vector of the space has: nothing that the service writes is. To compare one is an error.
_QUARANTINE_MISFITS = """
UPDATE memory_chunks SET quarantined_at = now()
WHERE user_hash = %s AND space = %s::smallint AND quarantined_at IS NULL AND vector_dims(embedding) <> %s"""

_BY_HAND = """
UPDATE memory_chunks SET quarantined_at = CASE WHEN %(is_quarantined)s THEN now() END
WHERE user_hash = %(user_hash)s AND id = ANY(%(ids)s::uuid[]) AND (quarantined_at IS NULL) = %(is_quarantined)s"""

DamagedColumn = Literal["text_cipher", "meta_cipher", "generation", "document_meta_cipher", "speaker_cipher"]

_QUARANTINE = """
UPDATE memory_chunks SET quarantined_at = now()
WHERE user_hash = %(user_hash)s AND quarantined_at IS NULL AND id IN ({damaged})"""

# The chunks that each kind of damage quarantines. Each names what was read, so that a row written anew in the
# meantime is left alone.
_DAMAGED: dict[DamagedColumn, str] = {
    "text_cipher": """
    SELECT c.id FROM unnest(%(text_cipher_rows)s::uuid[], %(text_cipher_blobs)s::bytea[]) AS failed (id, blob)
    JOIN memory_chunks c ON c.user_hash = %(user_hash)s AND c.id = failed.id AND c.text_cipher = failed.blob""",
    "meta_cipher": """
    SELECT c.id FROM unnest(%(meta_cipher_rows)s::uuid[], %(meta_cipher_blobs)s::bytea[]) AS failed (id, blob)
    JOIN memory_chunks c ON c.user_hash = %(user_hash)s AND c.id = failed.id AND c.meta_cipher = failed.blob""",
    "generation": """
    SELECT c.id FROM unnest(%(generation_rows)s::uuid[]) AS failed (id)
    JOIN memory_chunks c ON c.user_hash = %(user_hash)s AND c.id = failed.id
    WHERE NOT EXISTS (
        SELECT FROM memory_data_keys k WHERE k.user_hash = %(user_hash)s AND k.generation = c.generation)""",
    "document_meta_cipher": """
    SELECT c.id
    FROM unnest(%(document_meta_cipher_rows)s::text[], %(document_meta_cipher_blobs)s::bytea[]) AS failed (doc_id, blob)
    JOIN memory_documents d
        ON d.user_hash = %(user_hash)s AND d.doc_id = failed.doc_id AND d.meta_cipher = failed.blob
    JOIN memory_chunks c ON c.user_hash = %(user_hash)s AND c.doc_id = d.doc_id""",
    "speaker_cipher": """
    SELECT c.id FROM unnest(%(speaker_cipher_rows)s::text[], %(speaker_cipher_blobs)s::bytea[]) AS failed (doc_id, blob)
    JOIN memory_documents d
        ON d.user_hash = %(user_hash)s AND d.doc_id = failed.doc_id AND d.speaker_cipher IS NOT DISTINCT FROM blob
    JOIN memory_chunks c ON c.user_hash = %(user_hash)s AND c.doc_id = d.doc_id""",
}


@dataclass(frozen=True)
class Damage:
    """A sealed value that did not open, in `column`, as it was read.

    `row`: the chunk's id; of `document_meta_cipher` and `speaker_cipher` the doc_id, and every chunk of that document
    is quarantined.
    `blob`: what did not open. None for `generation`: the chunk claims a key that is not at hand, and is quarantined
    if its user does not have that key.
    """

    column: DamagedColumn
    row: UUID | str
    blob: bytes | None = None


def quarantine(user_hash: str, damages: Collection[Damage]) -> None:
    """Quarantine what `damages` name, all of it in one statement, in a transaction of its own."""
    params: dict[str, object] = {"user_hash": user_hash}
    counts = Counter(damage.column for damage in damages)
    for column, count in counts.items():
        metrics.decrypt_failed.labels(column).inc(count)
        of_column = [damage for damage in damages if damage.column == column]
        params[f"{column}_rows"] = [damage.row for damage in of_column]
        if column != "generation":
            params[f"{column}_blobs"] = [damage.blob for damage in of_column]
    with tenant_transaction(user_hash, write=True) as tx:
        changed = tx.execute(_QUARANTINE.format(damaged=" UNION ".join(_DAMAGED[column] for column in counts)), params)
        tx.sync()
        found = ", ".join(f"{column}: {count}" for column, count in sorted(counts.items()))
        logger.error("sealed values did not open (%s); chunks quarantined: %d", found, changed.rowcount)


def quarantine_misfits(user_hash: str, space: int) -> None:
    """Quarantine the user's chunks of `space` whose searchable vector has another dimension, in a transaction."""
    with tenant_transaction(user_hash, write=True) as tx:
        changed = tx.execute(_QUARANTINE_MISFITS, [user_hash, space, dimension_of(space)])
        tx.sync()
    if changed.rowcount:
        metrics.decrypt_failed.labels("embedding").inc(changed.rowcount)
        logger.error("vectors of another dimension than their space's; chunks quarantined: %d", changed.rowcount)


def quarantine_by_hand(user_hash: str, ids: Collection[UUID], *, is_quarantined: bool) -> int:
    """Quarantine the user's chunks of these ids, or release them; how many rows changed. In one transaction."""
    with tenant_transaction(user_hash, write=True) as tx:
        params = {"user_hash": user_hash, "ids": list(ids), "is_quarantined": is_quarantined}
        changed = tx.execute(_BY_HAND, params)
        tx.sync()
    return changed.rowcount
