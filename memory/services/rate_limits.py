"""Rate limits: which bucket a request takes its token from, and what it is told when there is none."""

from __future__ import annotations

import time

from django.conf import settings
from django.db import Error

from memory.admission.rates import CHUNKS, DEFAULT, INDEX, MEMORY, QUERY, RATE_SETTINGS, take_tokens
from memory.errors import RateLimited, UnsafeDatabase
from memory.rls import give_back_connection, tenant_transaction

__all__ = ["DEFAULT", "FAILURES", "INDEX", "MEMORY", "QUERY", "charge", "charge_chunks", "has_just_failed"]

# What a limiter that cannot be asked raises. Not DatabaseError: django.db.InterfaceError is none.
FAILURES = (Error, UnsafeDatabase)
# After a failure, which may have taken the pool's whole wait to show, who can do without is not kept waiting again.
PAUSE_SECONDS = 5.0
_failed_at: float | None = None


def charge(bucket: str, cost: int = 1, *, keeps_connection: bool = False) -> None:
    """Take `cost` tokens of the bound tenant's `bucket` (QUERY, INDEX, MEMORY or DEFAULT), where its rate is not off.

    One short transaction that never waits for the tenant's writers; afterwards no connection is held, unless
    `keeps_connection`, for a request whose work begins with the database. Raises RateLimited, which says in how many
    seconds there are as many; TenantNotBound with nobody bound. With the limiter's database away, its pool full or
    its roles unsafe it raises what a tenant transaction does, one of FAILURES: memory then answers 503 or 500, and a
    caller that must go on without its database catches them.
    """
    global _failed_at
    rate = getattr(settings, RATE_SETTINGS[bucket])
    if rate is None:
        if not keeps_connection:
            give_back_connection()
        return
    try:
        with tenant_transaction(write=True, reads_state=False, keeps_connection=keeps_connection) as tx:
            wait_seconds = take_tokens(tx, bucket, rate, cost)
    except FAILURES:
        _failed_at = time.monotonic()
        raise
    _failed_at = None
    if wait_seconds is not None:
        raise RateLimited(retry_after_seconds=wait_seconds)


def charge_chunks(chunks: int) -> None:
    """Take a token a chunk for what the bound tenant's request is about to store; as `charge`."""
    charge(CHUNKS, chunks)


def has_just_failed() -> bool:
    """The last `charge` of this process failed, less than PAUSE_SECONDS ago: the next one may wait as long."""
    return _failed_at is not None and time.monotonic() - _failed_at < PAUSE_SECONDS
