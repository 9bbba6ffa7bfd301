"""Token buckets in PostgreSQL: one atomic statement a decision, the same for every worker.

A bucket holds at most `bucket_size` tokens and gains `per_second` of them; a request takes one, or as many as it
costs. It is a row of `memory_rate_buckets`, which is UNLOGGED: a decision waits for no disk, and a crash forgives.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from memory.admission.rate import Rate
from memory.limits import CHUNKS_PER_CALL_MAX

# Each user has these; `chunks` is what indexing costs besides a token of `index`, `memory` is every memory endpoint
# without a bucket of its own, `default` everything else.
QUERY, INDEX, CHUNKS, MEMORY, DEFAULT = "query", "index", "chunks", "memory", "default"
RATE_SETTINGS = {
    QUERY: "MEMORY_RATE_QUERY",
    INDEX: "MEMORY_RATE_INDEX",
    CHUNKS: "MEMORY_RATE_CHUNKS",
    MEMORY: "MEMORY_RATE_DEFAULT",
    DEFAULT: "MEMORY_RATE_DEFAULT",
}


# The most that one request takes; from the other buckets each takes one token.
_COST_MAX = {CHUNKS: CHUNKS_PER_CALL_MAX}


class Rows(Protocol):
    """What a statement found."""

    def fetchone(self) -> Any: ...


class Transaction(Protocol):
    """One tenant's, as `memory.rls` opens it; it stands above this room, which only asks it for these."""

    user_hash: str

    def execute(self, sql: str, params: Any, /) -> Rows: ...

    def end(self) -> None: ...


# `excluded.updated_at` was read before this statement waited for the row, so the row's own moment may be
# later; then nothing has refilled since. One that is later by more than any wait for a lock was written
# before the clock was set back: the bucket goes on from now.
_AVAILABLE = """LEAST(
        %(size)s::double precision,
        bucket.tokens + %(per_second)s::double precision
            * GREATEST(0, extract(epoch FROM excluded.updated_at - bucket.updated_at)::double precision)
    )"""
_TAKE = f"""
INSERT INTO memory_rate_buckets AS bucket (user_hash, bucket, tokens, updated_at)
VALUES (%(user_hash)s, %(bucket)s, %(size)s::double precision - %(cost)s::double precision, clock_timestamp())
ON CONFLICT (user_hash, bucket) DO UPDATE SET
    tokens = {_AVAILABLE} - %(cost)s::double precision,
    updated_at = CASE
        WHEN bucket.updated_at > excluded.updated_at + interval '10 seconds' THEN excluded.updated_at
        ELSE GREATEST(bucket.updated_at, excluded.updated_at)
    END
WHERE {_AVAILABLE} >= %(cost)s::double precision
RETURNING true"""
_HELD = """
SELECT tokens + %s::double precision
    * GREATEST(0, extract(epoch FROM clock_timestamp() - updated_at)::double precision)
FROM memory_rate_buckets WHERE user_hash = %s AND bucket = %s"""
# (bucket, tokens as of its moment, seconds since then) of each bucket that one user has; params [user_hash].
HELD_BY_BUCKET = """
SELECT bucket, tokens, GREATEST(0, extract(epoch FROM clock_timestamp() - updated_at)::double precision)
FROM memory_rate_buckets WHERE user_hash = %s"""


def bucket_size(bucket: str, rate: Rate) -> int:
    """The most tokens that `bucket` holds: the rate's limit, or what one request may cost where that is more.

    So the costliest request is let through at any rate, once that much has refilled.
    """
    return max(rate.limit, _COST_MAX.get(bucket, 1))


def take_tokens(tx: Transaction, bucket: str, rate: Rate, cost: int = 1) -> int | None:
    """Take `cost` tokens, at least 1, from the tenant's `bucket`; None, or in how many whole seconds it has them.

    A refusal changes nothing, so refused requests do not keep a client waiting. `tx`: a writing transaction that
    need not read the tenant's state; this ends it. Over any time at most `bucket_size + seconds * per_second` tokens
    are taken. Raises ValueError for a cost that the bucket could never have.
    """
    size = bucket_size(bucket, rate)
    if not 1 <= cost <= size:
        raise ValueError(f"a request costs 1 to {size} tokens, not {cost}")
    params = {
        "user_hash": tx.user_hash, "bucket": bucket, "size": size, "per_second": rate.per_second, "cost": cost,
    }  # fmt: skip
    taken = tx.execute(_TAKE, params)
    # Asked along, to wait for the server only once. A refused statement holds the row's lock: this is what it saw.
    left = tx.execute(_HELD, [rate.per_second, tx.user_hash, bucket])
    tx.end()
    if taken.fetchone():
        return None
    held = left.fetchone()
    return max(1, math.ceil((cost - (held[0] if held else 0)) / rate.per_second))


def remaining(bucket: str, rate: Rate, held: tuple[float, float] | None) -> int:
    """How many whole tokens there are now; `held`: tokens and seconds since, as HELD_BY_BUCKET has them, or no row."""
    size = bucket_size(bucket, rate)
    if held is None:
        return size
    tokens, seconds = held
    return math.floor(min(size, tokens + seconds * rate.per_second))
