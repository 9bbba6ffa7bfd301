"""What outlives its use: documents and answers that have expired, full rate buckets, dead keys; sessions of staff."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.conf import settings
from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.errors import LockNotAvailable

from memory.admission.rates import RATE_SETTINGS, bucket_size
from memory.erasure.key_remains import rewrite_keys
from memory.errors import KeyUnavailable, Overloaded
from memory.rls import bind_tenant
from memory.services.forget import delete_expired
from memory.services.idempotency import IDEMPOTENCY_HOURS

BATCH_ROWS = 5_000
# Of one user in one transaction, for which his writers wait.
BATCH_DOCUMENTS = 50
# One number for all such runs in a database, so that two of them do not wait for each other's rows.
ADVISORY_LOCK = 0x52315045

_EXPIRED_DOCUMENTS = "FROM memory_documents WHERE expires_at <= now()"
_EXPIRED_ANSWERS = "FROM memory_idempotency WHERE created_at <= now() - make_interval(hours => %(hours)s)"
# A bucket that is full again grants the same as no bucket at all. One whose rate is off is never read; after an hour
# it goes.
_FULL_BUCKETS = """FROM memory_rate_buckets
WHERE bucket = %(bucket)s
    AND tokens + %(per_second)s::double precision * extract(epoch FROM clock_timestamp() - updated_at)::double precision
        >= %(size)s::double precision"""
_EXPIRED_SESSIONS = "FROM django_session WHERE expire_date <= now()"
_OFF = {"size": 1, "per_second": 1 / 3600}


@dataclass
class Pruned:
    """What a run removed, in rows; with `dry_run`, what it would remove. `users_left`: whose documents must wait."""

    dry_run: bool
    documents: int = 0
    users_left: int = 0
    answers: int = 0
    buckets: int = 0
    sessions: int = 0
    keys_rewritten: bool = False


def prune_expired(connection: BaseDatabaseWrapper, pruned: Pruned, *, progress: Callable[[str, int], object]) -> None:
    """Remove (or count) them in transactions of at most BATCH_ROWS rows, documents of one user by BATCH_DOCUMENTS, and
    count them in `pruned` batch by batch.

    `connection` is r1_maint's, and holds ADVISORY_LOCK. `progress` gets what is removed and how many of it so far.

    Then rewrite the tables of keys, so that nothing of a destroyed one is left in their files.

    A row that changes meanwhile is looked at again before it goes, so nobody gains or loses a token.
    Raises database errors; what was removed before one stays removed.
    """
    with connection.cursor() as cursor:
        progress("documents", 0)
        for rows in _expired_documents(cursor, pruned):
            pruned.documents += rows
            progress("documents", pruned.documents)
        progress("answers", 0)
        for rows in _batches(cursor, _EXPIRED_ANSWERS, {"hours": IDEMPOTENCY_HOURS}, pruned.dry_run):
            pruned.answers += rows
            progress("answers", pruned.answers)
        progress("buckets", 0)
        for bucket, setting in RATE_SETTINGS.items():
            rate = getattr(settings, setting)
            limits = {"size": bucket_size(bucket, rate), "per_second": rate.per_second} if rate else _OFF
            for rows in _batches(cursor, _FULL_BUCKETS, {"bucket": bucket, **limits}, pruned.dry_run):
                pruned.buckets += rows
                progress("buckets", pruned.buckets)
        progress("sessions", 0)
        for rows in _batches(cursor, _EXPIRED_SESSIONS, {}, pruned.dry_run):
            pruned.sessions += rows
            progress("sessions", pruned.sessions)
    if not pruned.dry_run:
        rewrite_keys(connection)
        pruned.keys_rewritten = True


def _expired_documents(cursor, pruned: Pruned) -> Iterator[int]:
    """How many each transaction deleted, each as the service's own role, bound to one user.

    A user whose row is not to be had is counted in `pruned` and passed over.
    """
    if pruned.dry_run:
        cursor.execute(f"SELECT count(*) {_EXPIRED_DOCUMENTS}")
        yield cursor.fetchone()[0]
        return
    cursor.execute(f"SELECT DISTINCT user_hash {_EXPIRED_DOCUMENTS}")
    for (user_hash,) in cursor.fetchall():
        rows = BATCH_DOCUMENTS
        while rows == BATCH_DOCUMENTS:
            try:
                with bind_tenant(user_hash):
                    rows = delete_expired(limit=BATCH_DOCUMENTS)
            except (KeyUnavailable, Overloaded, OperationalError) as exc:
                if isinstance(exc, OperationalError) and not isinstance(exc.__cause__, LockNotAvailable):
                    raise
                # Being erased or moved, or held by somebody: the next run's.
                pruned.users_left += 1
                break
            yield rows


def _batches(cursor, of: str, params: dict, dry_run: bool) -> Iterator[int]:
    """How many rows of `of` each batch removed; of a dry run, how many there are."""
    if dry_run:
        cursor.execute(f"SELECT count(*) {of}", params)
        yield cursor.fetchone()[0]
        return
    # The condition stands twice: a row that was changed since it was chosen is weighed as it is now.
    delete = f"DELETE {of} AND ctid = ANY(ARRAY(SELECT ctid {of} LIMIT {BATCH_ROWS}))"
    rows = BATCH_ROWS
    while rows == BATCH_ROWS:
        cursor.execute(delete, params)
        rows = cursor.rowcount
        yield rows
