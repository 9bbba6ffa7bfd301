"""What outlives its use in every user's rows: expired answers, rate buckets that are as good as new, destroyed keys."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.admission.rates import RATE_SETTINGS, bucket_size
from memory.erasure.key_remains import rewrite_keys
from memory.services.idempotency import IDEMPOTENCY_HOURS

BATCH_ROWS = 5_000
# One number for all such runs in a database, so that two of them do not wait for each other's rows.
ADVISORY_LOCK = 0x52315045

_EXPIRED_ANSWERS = "FROM memory_idempotency WHERE created_at <= now() - make_interval(hours => %(hours)s)"
# A bucket that is full again grants the same as no bucket at all. One whose rate is off is never read; after an hour
# it goes.
_FULL_BUCKETS = """FROM memory_rate_buckets
WHERE bucket = %(bucket)s
    AND tokens + %(per_second)s::double precision * extract(epoch FROM clock_timestamp() - updated_at)::double precision
        >= %(size)s::double precision"""
_OFF = {"size": 1, "per_second": 1 / 3600}


def prune_expired(
    connection: BaseDatabaseWrapper, *, dry_run: bool, progress: Callable[[str], object]
) -> dict[str, int | bool]:
    """Remove (or count) them in transactions of at most BATCH_ROWS rows; how many of each.

    `connection` is r1_maint's, and holds ADVISORY_LOCK.

    Then rewrite the tables of keys, so that nothing of a destroyed one is left in their files.

    A row that changes meanwhile is looked at again before it goes, so nobody gains or loses a token.
    Raises database errors; what was removed before one stays removed.
    """
    with connection.cursor() as cursor:
        found = {"answers": _prune(cursor, _EXPIRED_ANSWERS, {"hours": IDEMPOTENCY_HOURS}, dry_run)}
        progress(f"answers: {found['answers']}")
        found["buckets"] = 0
        for bucket, setting in RATE_SETTINGS.items():
            rate = getattr(settings, setting)
            limits = {"size": bucket_size(bucket, rate), "per_second": rate.per_second} if rate else _OFF
            found["buckets"] += _prune(cursor, _FULL_BUCKETS, {"bucket": bucket, **limits}, dry_run)
        progress(f"buckets: {found['buckets']}")
        if not dry_run:
            rewrite_keys(connection)
        found["keys_rewritten"] = not dry_run
    return found


def _prune(cursor, of: str, params: dict, dry_run: bool) -> int:
    if dry_run:
        cursor.execute(f"SELECT count(*) {of}", params)
        return cursor.fetchone()[0]
    # The condition stands twice: a row that was changed since it was chosen is weighed as it is now.
    delete = f"DELETE {of} AND ctid = ANY(ARRAY(SELECT ctid {of} LIMIT {BATCH_ROWS}))"
    removed = 0
    while True:
        cursor.execute(delete, params)
        removed += cursor.rowcount
        if cursor.rowcount < BATCH_ROWS:
            return removed
