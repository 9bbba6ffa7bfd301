"""The database backend of every alias: Django's for PostgreSQL, counted by django-prometheus, never waiting too long.

Django asks the pool for a connection without saying how long it may take. Here a request waits for the pool at most
POOL_WAIT_SECONDS of the time that it has left.
"""

from __future__ import annotations

from typing import Any

from django_prometheus.db.backends.postgresql import base

from memory.admission.deadline import remaining_seconds


class PoolInTime:
    """A pool, as it is, but that `getconn()` takes its patience from the request's deadline."""

    def __init__(self, pool):
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def getconn(self, timeout: float | None = None):
        """A connection. Raises PoolTimeout after `timeout` seconds, or the pool's own, or the request's deadline."""
        return self._pool.getconn(remaining_seconds(self._pool.timeout if timeout is None else timeout))


class DatabaseWrapper(base.DatabaseWrapper):
    @property
    def pool(self) -> PoolInTime | None:
        pool = super().pool
        return None if pool is None else PoolInTime(pool)
