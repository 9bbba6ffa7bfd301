"""New data keys for users: a generation added, what hangs on the old ones sealed anew, the old ones retired.

A run over all users is remembered, so that one that was killed goes on where it was and gives nobody two new keys. It
ends when everybody has a new key who can have one. What old keys are left then, for an answer to an Idempotency-Key is
promised for 24 hours and a damaged row stays under its key, any later run clears away, or one that does nothing else.
What fails for one user is counted, and the next one's turn comes. Between a user's new key and the end of an old one
lie some seconds: a request reads a changed profile anew once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from django.db import Error, OperationalError, ProgrammingError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.admission.pace import Pace
from memory.erasure.key_remains import clear_remains
from memory.errors import DecryptionFailed, KeyUnavailable, StaleKeys
from memory.indexing.reseal import reseal
from memory.maintenance.data_rotation import DataRotation, NoSuchUser
from memory.maintenance.old_keys import needs_of_old_keys
from memory.maintenance.users import users_where
from memory.rls import tenant_transaction
from memory.sealing.generations import NextKey, add_generation, retire_generation
from memory.sealing.profile import TenantProfile, read_profile

# Longer than a request holds a profile: two changes of one within a request would be an error to try again.
APART_SECONDS = 5.0
# Each time that a user's profile changes meanwhile (another writer's new speaker, an erasure) it is read anew.
TRIES = 5
# What a new key, the end of old ones and a small batch cost, in rows of a large one: each is transactions of its own.
LEAST_ROWS = 10

_BEGIN = "INSERT INTO memory_key_rotations DEFAULT VALUES ON CONFLICT DO NOTHING"
_BREAK_OFF = "UPDATE memory_key_rotations SET finished_at = now() WHERE finished_at IS NULL"
_RUN = "SELECT id, started_at FROM memory_key_rotations WHERE finished_at IS NULL"
_FINISH = "UPDATE memory_key_rotations SET finished_at = now() WHERE id = %s"
_OLDER = """
FROM memory_tenants t JOIN memory_data_keys k USING (user_hash, generation) WHERE k.created_at < %(started_at)s"""
_USERS_OLDER = f"SELECT t.user_hash {_OLDER} AND t.user_hash > %(after)s ORDER BY t.user_hash"
_USERS_SEVERAL = """
SELECT user_hash FROM memory_data_keys WHERE user_hash > %(after)s
GROUP BY user_hash HAVING count(*) > 1 ORDER BY user_hash"""
_OLD_ROWS = """
SELECT (SELECT count(*) FROM memory_chunks c JOIN memory_tenants t USING (user_hash) WHERE c.generation <> t.generation)
    + (SELECT count(*) FROM memory_documents d JOIN memory_tenants t USING (user_hash)
       WHERE d.generation <> t.generation)"""
_STARTED_OR_NOW = "SELECT coalesce((SELECT started_at FROM memory_key_rotations WHERE finished_at IS NULL), now())"

# What may fail for one user alone: `_why` says which database errors are not of that kind.
_ONE_USERS = (KeyUnavailable, DecryptionFailed, StaleKeys, Error)
# SQLSTATE classes of what the next user would meet as well: a lost connection, a server out of something, or down.
_EVERYBODYS = ("08", "53", "57P", "58", "XX")

Progress = Callable[[str, int, int | None], object]


def rotate_all(
    connection: BaseDatabaseWrapper, done: DataRotation, *, new_run: bool = False, progress: Progress, pace: Pace
) -> None:
    """Give every user a new data key who has one from before this run began; counted in `done` as it goes.

    `connection` is r1_maint's. Goes on with a run that has not ended, unless `new_run`; else begins one. It ends when
    nobody is left who can have a new key and nobody was busy. Raises database errors that are not one user's.
    """
    if done.dry_run:
        started_at = _value(connection, "SELECT now()" if new_run else _STARTED_OR_NOW)
        done.users_left = _value(connection, f"SELECT count(*) {_OLDER}", started_at=started_at)
        return
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        if new_run:
            cursor.execute(_BREAK_OFF)
        cursor.execute(_BEGIN)
        cursor.execute(_RUN)
        run_id, started_at = cursor.fetchone()
    done.started_at, done.goes_on = started_at.isoformat(), True
    total = done.users_left = _value(connection, f"SELECT count(*) {_OLDER}", started_at=started_at)
    progress("users", 0, total)
    for user_hash in users_where(connection, _USERS_OLDER, {"started_at": started_at}):
        _add(user_hash, done)
        progress("users", done.keys, total)
        pace.spend(LEAST_ROWS)
    added_at, damaged = time.monotonic(), done.damaged
    _reseal_and_retire(lambda: users_where(connection, _USERS_SEVERAL, {}), done, added_at, _rows(connection),
                       progress=progress, pace=pace)  # fmt: skip
    done.users_left = _value(connection, f"SELECT count(*) {_OLDER}", started_at=started_at)
    # Who cannot have a new key must not keep everybody else from the next one.
    if done.users_left <= damaged and not done.busy:
        with connection.cursor() as cursor:
            cursor.execute(_FINISH, [run_id])
        done.goes_on = False
    _look_back(connection, done, None)


def rotate_one(
    connection: BaseDatabaseWrapper, user_hash: str, done: DataRotation, *, progress: Progress, pace: Pace
) -> None:
    """Give one user a new data key, whatever stands of his older ones. Raises NoSuchUser, and as `rotate_all`."""
    _require_user(user_hash)
    done.users_left = 1
    if done.dry_run:
        return
    _add(user_hash, done)
    done.users_left = done.skipped
    _reseal_and_retire(lambda: iter([user_hash]), done, time.monotonic(), None, progress=progress, pace=pace)
    done.goes_on = bool(done.users_left) and not done.damaged
    _look_back(connection, done, user_hash)


def clear_old(
    connection: BaseDatabaseWrapper, user_hash: str | None, done: DataRotation, *, progress: Progress, pace: Pace
) -> None:
    """Take everything from under old data keys and destroy those, of one user or of all; nobody gets a new one.

    Raises NoSuchUser, and as `rotate_all`.
    """
    if user_hash is not None:
        _require_user(user_hash)
    if not done.dry_run:
        named = [] if user_hash is None else [user_hash]
        _reseal_and_retire(
            lambda: iter(named) if named else users_where(connection, _USERS_SEVERAL, {}), done, time.monotonic(),
            None if named else _rows(connection), progress=progress, pace=pace,
        )  # fmt: skip
    _look_back(connection, done, user_hash)
    done.goes_on = bool(done.busy or done.unavailable or done.needed_by["answers"])


def _require_user(user_hash: str) -> None:
    try:
        is_there = _profile(user_hash) is not None
    except (KeyUnavailable, DecryptionFailed):
        # What is the matter with him the steps will say.
        is_there = True
    if not is_there:
        raise NoSuchUser()


def _reseal_and_retire(
    users: Callable[[], Iterator[str]], done: DataRotation, added_at: float, total: int | None,
    *, progress: Progress, pace: Pace,
) -> None:  # fmt: skip
    progress("rows", 0, total)
    rows = 0
    for user_hash in users():
        for count in _each_batch(user_hash, done):
            rows += count
            progress("rows", rows, total)
            pace.spend(max(count, LEAST_ROWS))
    if done.keys:
        time.sleep(max(0.0, added_at + APART_SECONDS - time.monotonic()))
    for user_hash in users():
        _retire(user_hash, done)
        pace.spend(LEAST_ROWS)


def _look_back(connection: BaseDatabaseWrapper, done: DataRotation, user_hash: str | None) -> None:
    """What old keys are left and why; and what the others left in their tables' files is cleared away."""
    done.waiting, done.needed_by = needs_of_old_keys(connection, user_hash)
    if not done.retired:
        return
    try:
        done.files_cleared = clear_remains(connection)
    except OperationalError as exc:
        _why(exc)
        # The tables were in use at every try: `prune_expired` does it.
        done.files_cleared = False


def _add(user_hash: str, done: DataRotation) -> None:
    for _ in range(TRIES):
        try:
            profile = _profile(user_hash)
            if profile is None:
                return
            made = NextKey.after(profile)
            with tenant_transaction(user_hash, write=True) as tx:
                add_generation(tx, profile, made)
            done.keys += 1
            return
        except StaleKeys:
            continue
        except _ONE_USERS as exc:
            done.skip(user_hash, _why(exc))
            return
    done.skip(user_hash, "busy")


def _each_batch(user_hash: str, done: DataRotation) -> Iterator[int]:
    for _ in range(TRIES):
        try:
            profile = _profile(user_hash)
            if profile is not None:
                yield from reseal(profile, done)
            return
        except StaleKeys:
            continue
        except _ONE_USERS as exc:
            done.skip(user_hash, _why(exc))
            return
    done.skip(user_hash, "busy")


def _retire(user_hash: str, done: DataRotation) -> None:
    """All old generations that nothing needs, in one transaction: the user's profile changes once."""
    try:
        with tenant_transaction(user_hash, write=True) as tx:
            profile = read_profile(tx)
            retired = 0
            for generation in profile.generations[1:] if profile else ():
                # A retirement is a change of the profile: the next one needs it as it is then.
                profile = read_profile(tx)
                retired += bool(profile and retire_generation(tx, profile, generation))
    except _ONE_USERS as exc:
        done.skip(user_hash, _why(exc))
        return
    done.retired += retired


def _why(exc: Exception) -> str:
    """Why one user is left alone; raises `exc` again where the next one would fare no better."""
    if isinstance(exc, DecryptionFailed):
        return "damaged"
    if isinstance(exc, KeyUnavailable):
        return "unavailable"
    if isinstance(exc, Error):
        # Without an SQLSTATE it was not the server that said so: the connection is lost.
        sqlstate = getattr(exc.__cause__ or exc, "sqlstate", None)
        if isinstance(exc, ProgrammingError) or sqlstate is None or sqlstate.startswith(_EVERYBODYS):
            raise exc
    return "busy"


def _profile(user_hash: str) -> TenantProfile | None:
    with tenant_transaction(user_hash) as tx:
        return read_profile(tx)


def _rows(connection: BaseDatabaseWrapper) -> int:
    count: int = _value(connection, _OLD_ROWS)
    return count


def _value(connection: BaseDatabaseWrapper, sql: str, **params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()[0]
