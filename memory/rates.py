"""Token buckets in PostgreSQL: one atomic statement a decision, the same for every worker.

A bucket holds at most `limit` tokens and gains `per_second` of them; a request takes one. It is a row of
`memory_rate_buckets`, which is UNLOGGED: a decision waits for no disk, and a crash forgives.
"""

from __future__ import annotations

import math
from typing import Protocol

from memory.rls import TenantTransaction

# Each user has these; `memory` is every memory endpoint without a bucket of its own, `default` everything else.
QUERY, INDEX, MEMORY, DEFAULT = "query", "index", "memory", "default"
RATE_SETTINGS = {
    QUERY: "MEMORY_RATE_QUERY",
    INDEX: "MEMORY_RATE_INDEX",
    MEMORY: "MEMORY_RATE_DEFAULT",
    DEFAULT: "MEMORY_RATE_DEFAULT",
}


class Rate(Protocol):
    """At most `limit` requests at once, and again as they refill."""

    @property
    def limit(self) -> int: ...

    @property
    def per_second(self) -> float: ...


# `excluded.updated_at` was read before this statement waited for the row, so the row's own moment may be
# later; then nothing has refilled since. One that is later by more than any wait for a lock was written
# before the clock was set back: the bucket goes on from now.
_AVAILABLE = """LEAST(
        %(limit)s::double precision,
        bucket.tokens + %(per_second)s::double precision
            * GREATEST(0, extract(epoch FROM excluded.updated_at - bucket.updated_at)::double precision)
    )"""
_TAKE = f"""
INSERT INTO memory_rate_buckets AS bucket (user_hash, bucket, tokens, updated_at)
VALUES (%(user_hash)s, %(bucket)s, %(limit)s::double precision - 1, clock_timestamp())
ON CONFLICT (user_hash, bucket) DO UPDATE SET
    tokens = {_AVAILABLE} - 1,
    updated_at = CASE
        WHEN bucket.updated_at > excluded.updated_at + interval '10 seconds' THEN excluded.updated_at
        ELSE GREATEST(bucket.updated_at, excluded.updated_at)
    END
WHERE {_AVAILABLE} >= 1
RETURNING true"""
_HELD = """
SELECT tokens + %s::double precision
    * GREATEST(0, extract(epoch FROM clock_timestamp() - updated_at)::double precision)
FROM memory_rate_buckets WHERE user_hash = %s AND bucket = %s"""


def take_token(tx: TenantTransaction, bucket: str, rate: Rate) -> int | None:
    """Take a token from the tenant's `bucket`; None, or in how many whole seconds there is one.

    A refusal changes nothing, so refused requests do not keep a client waiting. `tx`: a writing transaction that
    need not read the tenant's state; this ends it. Over any time at most `limit + seconds * per_second` tokens are
    taken.
    """
    params = {"user_hash": tx.user_hash, "bucket": bucket, "limit": rate.limit, "per_second": rate.per_second}
    taken = tx.execute(_TAKE, params)
    # Asked along, to wait for the server only once. A refused statement holds the row's lock: this is what it saw.
    left = tx.execute(_HELD, [rate.per_second, tx.user_hash, bucket])
    tx.end()
    if taken.fetchone():
        return None
    held = left.fetchone()
    return max(1, math.ceil((1 - (held[0] if held else 0)) / rate.per_second))
