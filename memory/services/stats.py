"""How much one user's memory holds and may still take: counts and times, nothing opened.

In SQL, for deploy/decisions/0012.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from memory.admission.rates import HELD_BY_BUCKET, RATE_SETTINGS, remaining
from memory.indexing.derived import IS_DERIVED
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing.profile import ask_key, require_key

# A product has a handful of sources; a user with thousands gets those with the most documents.
SOURCES_MAX = 100

_DOCUMENTS = f"""
SELECT count(*), count(*) FILTER (WHERE {IS_DERIVED}), coalesce(sum(chunk_count), 0)::bigint,
       coalesce(sum(char_count), 0)::bigint, count(DISTINCT thread_id), min(created_at), max(created_at)
FROM memory_documents d WHERE user_hash = %s"""
_SOURCES = """
SELECT source, count(*) FROM memory_documents WHERE user_hash = %s
GROUP BY source ORDER BY count(*) DESC, source COLLATE "C" LIMIT %s"""
_QUARANTINED = "SELECT count(*) FROM memory_chunks WHERE user_hash = %s AND quarantined_at IS NOT NULL"


@dataclass(frozen=True)
class RateLeft:
    """A bucket's rate, `limit` tokens in `period_seconds`, and how many whole tokens it has now."""

    limit: int
    period_seconds: int
    remaining: int


@dataclass(frozen=True)
class MemoryStats:
    """One user's memory in numbers. `sources`: documents by source, most first, at most SOURCES_MAX of them.

    `oldest` and `newest` are documents' own times; None where there is no document. `quota_chunks` counts towards
    `max_chunks`. `rates`: by bucket; None for one whose rate is off.
    """

    documents: int
    derived_documents: int
    chunks: int
    chars: int
    threads: int
    oldest: datetime | None
    newest: datetime | None
    sources: dict[str, int]
    quarantined_chunks: int
    quota_chunks: int
    max_chunks: int
    rates: dict[str, RateLeft | None]


def memory_stats() -> MemoryStats:
    """The bound tenant's numbers, all of one moment. Raises KeyUnavailable while the memory has no key."""
    user_hash = bound_tenant()
    with tenant_transaction(user_hash) as tx:
        documents = tx.execute(_DOCUMENTS, [user_hash])
        sources = tx.execute(_SOURCES, [user_hash, SOURCES_MAX])
        quarantined = tx.execute(_QUARANTINED, [user_hash])
        buckets = tx.execute(HELD_BY_BUCKET, [user_hash])
        asked = ask_key(tx)
        tx.end()
        state = require_key(tx, asked)
        counted: tuple[int, int, int, int, int, datetime | None, datetime | None]
        counted, by_source, [quarantined_chunks] = documents.fetchone(), sources.fetchall(), quarantined.fetchone()
        held = {bucket: (tokens, seconds) for bucket, tokens, seconds in buckets.fetchall()}
    quota_chunks = state.chunk_count if state else 0
    return MemoryStats(
        *counted, dict(by_source), quarantined_chunks, quota_chunks, settings.MEMORY_MAX_CHUNKS_PER_USER, _rates(held)
    )


def _rates(held: dict[str, tuple[float, float]]) -> dict[str, RateLeft | None]:
    rates = {bucket: getattr(settings, name) for bucket, name in RATE_SETTINGS.items()}
    return {
        bucket: rate and RateLeft(rate.limit, rate.period_seconds, remaining(bucket, rate, held.get(bucket)))
        for bucket, rate in rates.items()
    }
