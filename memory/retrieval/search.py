"""The candidate search: one SQL text for every user, exact within the bound tenant's rows.

The vector column is ordered by and never selected. `WHERE user_hash = %s` stands beside the policy:
it gives the planner the right row estimate, prunes to one partition and lets it prove partial
indexes; the policy turns into a One-Time Filter above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgvector import HalfVector

from memory import metrics
from memory.errors import CrossTenantAttempt
from memory.retrieval.candidate import Candidate
from memory.rls import TenantTransaction


@dataclass(frozen=True)
class Filters:
    """What a query may be narrowed to. Times are aware; `since` is included, `until` is not."""

    sources: tuple[str, ...] = ()
    doc_ids: tuple[str, ...] = ()
    thread_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_CANDIDATES = """
SELECT c.user_hash, c.id, c.doc_id, c.chunk_index, c.source, c.thread_id, c.char_start, c.char_end, c.created_at,
       c.generation, c.text_cipher, c.meta_cipher, d.meta_cipher, d.content_mac, c.distance
FROM (
    SELECT user_hash, id, doc_id, chunk_index, source, thread_id, char_start, char_end, created_at, generation,
           text_cipher, meta_cipher, embedding <=> %s::halfvec AS distance
    FROM memory_chunks
    WHERE user_hash = %s AND space = %s AND quarantined_at IS NULL{conditions}
    ORDER BY embedding <=> %s::halfvec, id
    LIMIT %s
) c
LEFT JOIN memory_documents d ON d.user_hash = %s AND d.doc_id = c.doc_id
ORDER BY c.distance, c.id"""

_QUARANTINED = """
SELECT EXISTS (SELECT FROM memory_chunks WHERE user_hash = %s AND quarantined_at IS NOT NULL)"""


def candidate_statement(
    user_hash: str, space: int, vector: HalfVector, limit: int, filters: Filters
) -> tuple[str, list]:
    """The search's SQL and its parameters; `explain_ann` explains exactly this."""
    conditions, values = "", []
    for clause, value in (
        ("source = ANY(%s)", list(filters.sources)),
        ("doc_id = ANY(%s)", list(filters.doc_ids)),
        ("thread_id = %s", filters.thread_id),
        ("created_at >= %s", filters.since),
        ("created_at < %s", filters.until),
    ):
        if value not in (None, []):
            conditions += f" AND {clause}"
            values.append(value)
    sql = _CANDIDATES.format(conditions=conditions)
    return sql, [vector, user_hash, space, *values, vector, limit, user_hash]


class Search:
    """A search queued in an open tenant transaction: `candidates()` and `quarantined()` wait for the server."""

    def __init__(self, tx: TenantTransaction, space: int, vector: HalfVector, limit: int, filters: Filters):
        self._user_hash = tx.user_hash
        self._found = tx.execute(*candidate_statement(tx.user_hash, space, vector, limit, filters))
        self._any_quarantined = tx.execute(_QUARANTINED, [tx.user_hash])

    def candidates(self) -> list[Candidate]:
        """Nearest first. Raises CrossTenantAttempt if the server ever returned another tenant's row."""
        rows = self._found.fetchall()
        if any(row[0] != self._user_hash for row in rows):
            metrics.cross_tenant_attempts.inc()
            raise CrossTenantAttempt()
        found = [Candidate(*row[1:]) for row in rows]
        for candidate in found:
            candidate.vector = min(1.0, max(0.0, 1.0 - candidate.distance))
        return found

    def quarantined(self) -> bool:
        """Whether some of the user's rows are set aside, so that the answer may be missing them."""
        return self._any_quarantined.fetchone()[0]
