"""New data keys for users: a generation added, what hangs on the old ones sealed anew, the old ones retired.

A run over all users is remembered, so that one that was killed goes on where it was, and ends with it: who had a new
key before gets no second one. An old key stays as long as an answer to an Idempotency-Key that it has sealed is
promised (24 hours), so a run is gone on with the day after. Between a user's new key and the end of an old one lie some
seconds: a request reads a changed profile anew once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper

from memory.errors import DecryptionFailed, KeyUnavailable, StaleKeys
from memory.indexing.reseal import Resealed, reseal
from memory.maintenance.pace import Pace
from memory.maintenance.users import users_where
from memory.rls import tenant_transaction
from memory.sealing.generations import NextKey, add_generation, retire_generation
from memory.sealing.profile import TenantProfile, read_profile

# Longer than a request holds a profile: two changes of one within a request would be an error to try again.
APART_SECONDS = 5.0
# Each time that a user's profile changes meanwhile (another writer's new speaker, an erasure) it is read anew.
TRIES = 5

_BEGIN = "INSERT INTO memory_key_rotations DEFAULT VALUES ON CONFLICT DO NOTHING"
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

# His keys cannot be had, or he is being moved or erased: it is his turn in the next run.
_UNREADY = (KeyUnavailable, DecryptionFailed)

Progress = Callable[[str, int, int | None], object]


@dataclass
class DataRotation(Resealed):
    """What a run did. `keys`: generations added; `retired`: old ones that are gone; `waiting`: those still needed.

    `skipped`: users who were being moved or erased, or whose keys could not be had. `users_left`: by a dry run, who
    would get a new key.
    """

    keys: int = 0
    retired: int = 0
    waiting: int = 0
    skipped: int = 0
    users_left: int = 0
    dry_run: bool = False

    @property
    def is_done(self) -> bool:
        """Whether no user has more than one data key any more."""
        return not (self.waiting or self.skipped)


def rotate_all(connection: BaseDatabaseWrapper, done: DataRotation, *, progress: Progress, pace: Pace) -> None:
    """Give every user a new data key who has one from before this run began; counted in `done` as it goes.

    `connection` is r1_maint's. Ends the run where no old key is left. Raises database errors.
    """
    with connection.cursor() as cursor:
        if done.dry_run:
            cursor.execute(f"SELECT count(*) {_OLDER}", {"started_at": _started_or_now(connection)})
            [done.users_left] = cursor.fetchone()
            return
        cursor.execute(_BEGIN)
        cursor.execute(_RUN)
        run_id, started_at = cursor.fetchone()
        cursor.execute(f"SELECT count(*) {_OLDER}", {"started_at": started_at})
        [total] = cursor.fetchone()
    progress("users", 0, total)
    for user_hash in users_where(connection, _USERS_OLDER, {"started_at": started_at}):
        _add(user_hash, done)
        progress("users", done.keys, total)
        pace.let(1)
    added_at = time.monotonic()
    _reseal_and_retire(lambda: users_where(connection, _USERS_SEVERAL, {}), done, added_at, _rows(connection),
                       progress=progress, pace=pace)  # fmt: skip
    if done.is_done:
        with connection.cursor() as cursor:
            cursor.execute(_FINISH, [run_id])


def rotate_one(user_hash: str, done: DataRotation, *, progress: Progress, pace: Pace) -> None:
    """Give one user a new data key, unless an earlier rotation of his keys is not finished: then go on with that."""
    profile = _profile(user_hash)
    if profile is None:
        return
    done.users_left = int(len(profile.generations) == 1)
    if done.dry_run:
        return
    if done.users_left:
        _add(user_hash, done)
        done.users_left = 0
    _reseal_and_retire(lambda: iter([user_hash]), done, time.monotonic(), None, progress=progress, pace=pace)


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
            pace.let(count)
    if done.keys:
        time.sleep(max(0.0, added_at + APART_SECONDS - time.monotonic()))
    for user_hash in users():
        _retire(user_hash, done)


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
        except _UNREADY:
            break
    done.skipped += 1


def _each_batch(user_hash: str, done: DataRotation) -> Iterator[int]:
    for _ in range(TRIES):
        try:
            profile = _profile(user_hash)
            if profile is not None:
                yield from reseal(profile, done)
            return
        except StaleKeys:
            continue
        except _UNREADY:
            break
    done.skipped += 1


def _retire(user_hash: str, done: DataRotation) -> None:
    """All old generations that nothing needs, in one transaction: the user's profile changes once."""
    try:
        with tenant_transaction(user_hash, write=True) as tx:
            profile = read_profile(tx)
            retired = waiting = 0
            for generation in profile.generations[1:] if profile else ():
                # A retirement is a change of the profile: the next one needs it as it is then.
                profile = read_profile(tx)
                if profile and retire_generation(tx, profile, generation):
                    retired += 1
                else:
                    waiting += 1
    except (*_UNREADY, StaleKeys):
        done.skipped += 1
        return
    done.retired += retired
    done.waiting += waiting


def _profile(user_hash: str) -> TenantProfile | None:
    with tenant_transaction(user_hash) as tx:
        return read_profile(tx)


def _started_or_now(connection: BaseDatabaseWrapper):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce((SELECT started_at FROM memory_key_rotations WHERE finished_at IS NULL), now())"
        )
        return cursor.fetchone()[0]


def _rows(connection: BaseDatabaseWrapper) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_OLD_ROWS)
        count: int = cursor.fetchone()[0]
    return count
