"""Rate limits: which bucket a request takes its token from, and what it is told when there is none."""

from __future__ import annotations

from django.conf import settings

from memory.errors import RateLimited
from memory.rates import DEFAULT, INDEX, MEMORY, QUERY, RATE_SETTINGS, take_token
from memory.rls import tenant_transaction

__all__ = ["DEFAULT", "INDEX", "MEMORY", "QUERY", "charge"]


def charge(bucket: str) -> None:
    """Take one token of the bound tenant's `bucket` (QUERY, INDEX, MEMORY or DEFAULT), where its rate is not off.

    One short transaction that never waits for the tenant's writers; afterwards no connection is held. Raises
    RateLimited, which says in how many seconds there is a token; TenantNotBound with nobody bound. With the
    limiter's database away, its pool full or its roles unsafe it raises what a tenant transaction does
    (`django.db.DatabaseError`, `memory.errors.UnsafeDatabase`): memory then answers 503 or 500, and a
    caller that must go on without its database catches them.
    """
    rate = getattr(settings, RATE_SETTINGS[bucket])
    if rate is None:
        return
    with tenant_transaction(write=True, reads_state=False) as tx:
        wait_seconds = take_token(tx, bucket, rate)
    if wait_seconds is not None:
        raise RateLimited(retry_after_seconds=wait_seconds)
