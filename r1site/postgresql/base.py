"""The database backend of every alias: Django's for PostgreSQL, counted by django-prometheus, never waiting too long.

Django asks the pool for a connection without saying how long it may take. Here a request waits for the pool at most
POOL_WAIT_SECONDS of the time that it has left.

With CONN_HEALTH_CHECKS the pool would ask the server about each connection before it lends it, which is a round trip a
transaction. A server that ends a connection, whether it stops, crashes or is told to, says so on the socket, and says
nothing else unasked but a notice: only a connection on which something has come is asked about. One that broke without
a word is found out by neither, since that question would wait for it just as the transaction does; TCP finds it out
in 90 s while it is idle (r1site/settings/databases.py).

The pool would lend the connection that has been idle longest, so that each request met a server process whose memory
was in no cache. Here it is the one that was given back last.
"""

from __future__ import annotations

import select
import time
from functools import lru_cache
from typing import Any

import psycopg
from django_prometheus.db.backends.postgresql import base
from psycopg import _queries
from psycopg_pool import ConnectionPool

from memory.admission.deadline import remaining_seconds

# How many statements a connection keeps prepared, and how many this process keeps split at their parameters, in 20 MB
# at most. A search has up to nine a partition, without filters: of psycopg's own 100 and 128 all would be exchanged all
# the time. The longest is longer than what psycopg keeps.
PREPARED_MAX = 1_000
STATEMENT_BYTES_MAX = 8_192
_queries.MAX_CACHED_STATEMENT_LENGTH = STATEMENT_BYTES_MAX
_queries._query2pg = lru_cache(PREPARED_MAX)(_queries._query2pg_nocache)


class PoolInTime:
    """A pool, as it is, but that `getconn()` takes its patience from the request's deadline."""

    def __init__(self, pool):
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def getconn(self, timeout: float | None = None):
        """A connection whose server is there.

        Raises PoolTimeout after `timeout` seconds, or the pool's own, or the request's deadline.
        """
        until = time.monotonic() + remaining_seconds(self._pool.timeout if timeout is None else timeout)
        while True:
            connection = self._pool.getconn(until - time.monotonic())
            try:
                if has_word(connection):
                    ConnectionPool.check_connection(connection)
                return connection
            except psycopg.OperationalError:
                # The pool drops it, and makes another.
                self._pool.putconn(connection)


def has_word(connection: psycopg.Connection) -> bool:
    """Whether something has come from the server since its last answer was read, if only the end."""
    socket = select.poll()
    socket.register(connection.fileno(), select.POLLIN)
    return bool(socket.poll(0))


def lend_newest(pool: ConnectionPool) -> None:
    """Have `pool` lend what was given back last, and still close what has been idle longest."""
    if "_get_ready_connection" in vars(pool):
        return
    with pool._lock:
        # Another thread may have been first.
        if "_get_ready_connection" in vars(pool):
            return
        lend = pool._get_ready_connection

        def lend_from_the_other_end(timeout: float | None) -> psycopg.Connection | None:
            # Both are taken from the left, and what comes back goes to the right; called under the pool's lock.
            pool._pool.rotate(1)
            return lend(timeout)

        pool._get_ready_connection = lend_from_the_other_end  # type: ignore[method-assign]


class DatabaseWrapper(base.DatabaseWrapper):
    def _configure_connection(self, connection: psycopg.Connection) -> bool:
        connection.prepared_max = PREPARED_MAX
        return super()._configure_connection(connection)

    @property
    def pool(self) -> PoolInTime | None:
        pool = super().pool
        if pool is None:
            return None
        lend_newest(pool)
        return PoolInTime(pool)
