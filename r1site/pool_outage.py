"""Whether a worker's connection pool timed out because the database is away, or because it is busy.

psycopg's pool says PoolTimeout for both. Its size does not tell them apart: a pool that was full when the
database went away keeps its size for `reconnect_timeout`, while each of its members tries to connect again,
and one that is busy may not have grown to its maximum yet, since it adds one connection at a time. What does
tell is that attempts to connect fail, or that nobody has a connection and still none is to be had.
"""

from __future__ import annotations

import time

from django.db import connections
from psycopg_pool import ConnectionPool, PoolTimeout

# The pool tries again after 1 s, 2 s, ... and gives up after 5 s; the next request starts it anew.
RECENT_SECONDS = 5.0

# Of the last look: the pool's name, its failed attempts so far, and when they were last seen to grow.
_seen: tuple[str, int, float] | None = None


def is_database_away(pool: ConnectionPool) -> bool:
    """For a pool that has just timed out: True where it cannot get the connections it may have."""
    global _seen
    now = time.monotonic()
    stats = pool.get_stats()
    failures = stats.get("connections_errors", 0)
    name, before, grew_at = _seen or ("", 0, 0.0)
    if name != pool.name:
        before = 0
        grew_at = -RECENT_SECONDS
    if failures > before:
        grew_at = now
    _seen = (pool.name, failures, grew_at)
    return stats["pool_size"] == 0 or now - grew_at < RECENT_SECONDS


def is_pool_full(error: BaseException | None) -> bool:
    """Whether `error` says that the service's pool has no connection to lend, all being in use by others."""
    if not isinstance(error, PoolTimeout):
        return False
    pool = getattr(connections["default"], "pool", None)
    return pool is None or not is_database_away(pool)
