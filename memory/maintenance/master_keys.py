"""The life of a master key: promoted, all users' keys wrapped anew under it, verified, and the one before retired.

Each step may be killed at any moment and run again. Users' keys stay the same throughout, so nothing is sealed anew.

Longer than 250 lines on purpose: the steps share what they ask of the workers and of the key tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import OperationalError

from memory.admission.pace import Pace
from memory.erasure.key_remains import clear_remains
from memory.keys.fingerprints import master_key_fingerprints
from memory.maintenance.users import users_where
from memory.sealing.promotion import forget_promoted
from memory.sealing.providers import current_key_id, is_wrapped_with
from memory.sealing.rewrap import KeyCount, rewrap_keys, verify_keys
from memory.sealing.worker_reports import WorkerReport, hold_reports, live_workers, workers_lacking_master

# After a retirement: requests that hold an opened profile from before have ended by then.
SETTLE_SECONDS = 6.0
# Requests that write keys wait behind the lock that is waited for, so never as long as r1_app's lock_timeout.
LOCK_MS = 500
LOCK_TRIES = 20

_KEYS = """
(SELECT user_hash, key_id FROM memory_data_keys UNION ALL SELECT user_hash, key_id FROM memory_search_keys) k"""
_ELSEWHERE = f"SELECT count(*) FROM {_KEYS} WHERE key_id <> %(key_id)s"
_USERS_ELSEWHERE = f"""
SELECT DISTINCT user_hash FROM {_KEYS} WHERE key_id <> %(key_id)s AND user_hash > %(after)s ORDER BY user_hash"""
_USERS = "SELECT user_hash FROM memory_tenants WHERE user_hash > %(after)s ORDER BY user_hash"
_USED = """
SELECT (SELECT count(*) FROM memory_data_keys WHERE key_id = %(key_id)s)
    + (SELECT count(*) FROM memory_search_keys WHERE key_id = %(key_id)s)"""
_KNOWN = "SELECT retired_at FROM memory_master_keys WHERE key_id = %s"
_PROMOTE = """
INSERT INTO memory_master_keys (key_id, fingerprint, promoted_at) VALUES (%s, %s, clock_timestamp())
ON CONFLICT (key_id) DO UPDATE SET
    fingerprint = excluded.fingerprint, promoted_at = excluded.promoted_at, unused_since = NULL"""
# Every id that wraps something or was ever promoted, but for the one that wraps now.
_NOTE_USE = f"""
INSERT INTO memory_master_keys AS m (key_id, unused_since)
SELECT key_id, CASE WHEN uses = 0 THEN clock_timestamp() END FROM (
    SELECT key_id, count(user_hash) AS uses FROM (
        SELECT user_hash, key_id FROM {_KEYS}
        UNION ALL SELECT NULL, key_id FROM memory_master_keys
        UNION ALL SELECT NULL, unnest(%(known)s::text[])) named
    GROUP BY key_id) counted
WHERE key_id <> %(key_id)s
ON CONFLICT (key_id) DO UPDATE SET
    unused_since = CASE WHEN excluded.unused_since IS NOT NULL
        THEN coalesce(m.unused_since, excluded.unused_since) END"""
_UNUSED = """
SELECT unused_since + make_interval(days => %(days)s), unused_since + make_interval(days => %(days)s) <= now()
FROM memory_master_keys WHERE key_id = %(key_id)s"""
_LOCK_KEYS = "LOCK TABLE memory_data_keys, memory_search_keys IN SHARE MODE"
_RETIRE = "UPDATE memory_master_keys SET retired_at = coalesce(retired_at, clock_timestamp()) WHERE key_id = %s"
_NO_WORKER = (
    "no live worker has said which keys it holds; if the service runs, its workers are of an older release, which "
    "knows nothing of promotions: update them all, and run this step again"
)
# So that every process reads its users' keys anew, and none goes on with one as the retired key has wrapped it.
_FORGET_EVERYWHERE = """
INSERT INTO memory_key_changes AS k (slot, changes) SELECT slot, 1 FROM generate_series(0, 255) AS slot
ON CONFLICT (slot) DO UPDATE SET changes = k.changes + 1"""


class Refused(Exception):
    """A step that must not be taken now; the sentence says why, and what to do."""


@dataclass
class Rewrapped(KeyCount):
    """What a run of re-wrapping did, in keys. `key_id`: what wraps now. `left`: keys not under it yet."""

    key_id: str = ""
    dry_run: bool = False
    left: int = 0


@dataclass
class Verified(KeyCount):
    """What a run of verifying found, in keys. `elsewhere`: those that open, under another key than `key_id`."""

    key_id: str = ""
    elsewhere: int = 0


@dataclass
class Retired:
    """A retired key. `held_by`: live workers that have its bytes still, and may lose them now.

    `files_rewritten`: nothing that it has wrapped is left in the key tables' files. False where they were too large to
    be rewritten while requests wait, and were vacuumed. `live_workers`: how many were asked.
    """

    key_id: str
    dry_run: bool = False
    files_rewritten: bool = False
    live_workers: int = 0
    held_by: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        said = {**asdict(self), "bytes_may_go": not self.dry_run}
        return said if self.live_workers else said | {"warning": _NO_WORKER}


def promote(connection: BaseDatabaseWrapper, key_id: str, *, dry_run: bool) -> dict[str, Any]:
    """Let the master key `key_id` wrap new keys from now on, on every worker within seconds.

    Raises Refused where this process or a live worker lacks it, or it was retired. SettingError.
    """
    if settings.MEMORY_KEY_PROVIDER != "local":
        raise Refused("a key server wraps users' keys: rotate its own key, then --rewrap")
    mark = master_key_fingerprints().get(key_id)
    if mark is None:
        raise Refused(f"MEMORY_ENCRYPTION_KEYS has no key {key_id} here; add it on every worker first")
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        hold_reports(connection)
        _require_not_retired(connection, key_id)
        if lacking := workers_lacking_master(connection, key_id, mark):
            raise Refused(_lack(lacking, key_id))
        workers = live_workers(connection)
        if not dry_run:
            cursor.execute(_PROMOTE, [key_id, mark])
    forget_promoted()
    said = {"promoted": key_id, "dry_run": dry_run, "live_workers": len(workers)}
    return said if workers else said | {"warning": _NO_WORKER}


def rewrap(
    connection: BaseDatabaseWrapper, done: Rewrapped, *, progress: Callable[[str, int, int | None], object], pace: Pace
) -> None:
    """Wrap all users' keys anew under what wraps now, counted in `done` key by key.

    `connection` is r1_maint's. Raises Refused where a live worker lacks that key, KeyUnavailable, database errors.
    """
    done.key_id = current_key_id()
    _require_not_retired(connection, done.key_id)
    _require_everywhere(connection, done.key_id)
    total = done.left = _count(connection, _ELSEWHERE, key_id=done.key_id)
    if done.dry_run:
        return
    # Each id that wraps something now is known from here on, so that it is noted when it wraps nothing any more.
    _note_use(connection, done.key_id)
    progress("keys", 0, total)
    for user_hash in users_where(connection, _USERS_ELSEWHERE, {"key_id": done.key_id}):
        before = done.done
        rewrap_keys(user_hash, done.key_id, done)
        progress("keys", done.done, total)
        pace.spend(done.done - before)
    done.left = _count(connection, _ELSEWHERE, key_id=done.key_id)
    _note_use(connection, done.key_id)


def verify(
    connection: BaseDatabaseWrapper, found: Verified, *, progress: Callable[[str, int, int | None], object], pace: Pace
) -> None:
    """Open every user's every wrapped key, counted in `found`. Changes nothing."""
    found.key_id = current_key_id()
    total = _count(connection, f"SELECT count(*) FROM {_KEYS}")
    progress("keys", 0, total)
    for user_hash in users_where(connection, _USERS, {}):
        before = found.done
        found.elsewhere += verify_keys(user_hash, found.key_id, found)
        progress("keys", found.done, total)
        pace.spend(found.done - before)
    _note_use(connection, found.key_id)


def retire(connection: BaseDatabaseWrapper, retired: Retired, *, without_backups: bool) -> None:
    """Declare that nothing needs a key any more, so that its bytes may be removed from every worker.

    From the commit of that on the database takes no key under it. What it has wrapped is cleared from the key tables'
    files, and every process forgets what it has opened under it. `without_backups`: no backup of the keys from before
    is to be restored. Raises Refused where something needs it, database errors.
    """
    key_id, current = retired.key_id, current_key_id()
    if key_id == current:
        raise Refused(f"{key_id} wraps new keys; promote another one first")
    _require_everywhere(connection, current)
    _note_use(connection, current)
    _require_unused(connection, key_id)
    with connection.cursor() as cursor:
        cursor.execute(_UNUSED, {"key_id": key_id, "days": settings.MEMORY_KEY_BACKUP_RETENTION_DAYS})
        row = cursor.fetchone()
    if row is None:
        raise Refused(f"no key {key_id} is known here")
    needed_until, is_over = row
    if needed_until is None:
        raise Refused(f"{key_id} wrapped keys a moment ago; try again")
    if not is_over and not without_backups:
        raise Refused(
            f"backups of the keys from before may need {key_id} until {needed_until:%Y-%m-%d}; "
            "with --without-backups it is retired now, and what they hold of it can never be opened"
        )
    workers = live_workers(connection)
    retired.live_workers = len(workers)
    retired.held_by = [worker.name for worker in workers if key_id in worker.master_keys]
    if retired.dry_run:
        return
    _mark_retired(connection, key_id)
    retired.files_rewritten = clear_remains(connection)
    with connection.cursor() as cursor:
        cursor.execute(_FORGET_EVERYWHERE)
    time.sleep(SETTLE_SECONDS)
    _require_unused(connection, key_id)


def _mark_retired(connection: BaseDatabaseWrapper, key_id: str) -> None:
    """Between the last count and the mark nobody writes a key: who was about to waits, and is then refused this one."""
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
                cursor.execute(_LOCK_KEYS)
                _require_unused(connection, key_id)
                cursor.execute(_RETIRE, [key_id])
            return
        except OperationalError:
            if not tries_left:
                raise
            time.sleep(LOCK_MS / 1000)


def _require_not_retired(connection: BaseDatabaseWrapper, key_id: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_KNOWN, [key_id])
        row = cursor.fetchone()
    if row is not None and row[0]:
        raise Refused(f"{key_id} was retired; an id is used once: give a new key a new one")


def _require_unused(connection: BaseDatabaseWrapper, key_id: str) -> None:
    if used := _count(connection, _USED, key_id=key_id):
        raise Refused(f"{used} keys are wrapped under {key_id}; run `rotate_keys --rewrap` first")


def _require_everywhere(connection: BaseDatabaseWrapper, key_id: str) -> None:
    """Raises Refused unless every live worker opens what `key_id` wraps, and none wraps under anything else."""
    mark = master_key_fingerprints().get(key_id)
    if mark and (lacking := workers_lacking_master(connection, key_id, mark)):
        raise Refused(_lack(lacking, key_id))
    # None: it can wrap nothing.
    others = [
        worker
        for worker in live_workers(connection)
        if worker.active_master_key and not is_wrapped_with(key_id, worker.active_master_key)
    ]
    if others:
        raise Refused(
            f"{_named(others)} wrap under {others[0].active_master_key}, and this command under {key_id}: promote the "
            "one that is meant, or restart them with the same MEMORY_KEY_PROVIDER, and try again some seconds later"
        )


def _lack(workers: list[WorkerReport], key_id: str) -> str:
    return f"these live workers lack the master key {key_id}, or hold another one under that id: {_named(workers)}"


def _named(workers: list[WorkerReport]) -> str:
    return ", ".join(worker.name for worker in workers)


def _note_use(connection: BaseDatabaseWrapper, key_id: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_NOTE_USE, {"key_id": key_id, "known": list(master_key_fingerprints())})


def _count(connection: BaseDatabaseWrapper, sql: str, **params: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        count: int = cursor.fetchone()[0]
    return count
