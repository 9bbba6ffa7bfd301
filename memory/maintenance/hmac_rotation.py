"""The tenant HMAC key changed: the new one promoted, every user renamed, the old one retired.

A user's id stands sealed in his own row, so whoever has his keys can say what his name under another key is: nobody has
to come for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.admission.pace import Pace
from memory.errors import DecryptionFailed, MemoryServiceError
from memory.keys.fingerprints import fingerprint
from memory.maintenance.hmac_keys import Keys, Refused, require_workers
from memory.moving.move import Move, MoveLost, MoveState
from memory.moving.moved import Moved
from memory.moving.rename import rename_user
from memory.moving.renamed_rows import remove_old_name
from memory.rls import tenant_transaction
from memory.sealing.keyring import open_user_id, under_profile
from memory.sealing.profile import TenantProfile
from memory.security import InvalidTag, hmac_user

# A user who is made while the others are renamed, by a transaction that began before the promotion, is found by a walk
# after it.
WALKS = 2
_USERS = """
SELECT t.user_hash, t.state, t.chunk_count, t.active_space, t.moved_to FROM memory_tenants t
WHERE t.state = 'active' OR (t.state = 'moved' AND EXISTS (SELECT FROM memory_moves m WHERE m.user_hash = t.user_hash))
ORDER BY t.user_hash"""
_USER_ID = "SELECT user_id_cipher FROM memory_tenants WHERE user_hash = %s"
_BUSY = "SELECT EXISTS (SELECT FROM memory_moves WHERE target_hash <> user_hash)"
_DROP_LINKS = "DELETE FROM memory_tenants WHERE state = 'moved'"
_RETIRE = "UPDATE memory_hmac_keys SET retired_at = now() WHERE fingerprint = %s"


@dataclass
class Renamed:
    """What a run did; with `dry_run`, what it would do. `users`: those found under the old name.

    `damaged`: with rows that do not open, so they keep their name; `unknown`: whose name neither key gives; `failed`:
    others, for the next run.
    """

    dry_run: bool
    users: int = 0
    renamed: int = 0
    damaged: int = 0
    unknown: int = 0
    failed: int = 0
    done: Moved = field(default_factory=Moved)

    def summary(self) -> dict[str, Any]:
        """As the command prints it."""
        own = {name: value for name, value in vars(self).items() if name != "done"}
        return {
            **own,
            "documents": self.done.documents,
            "chunks": self.done.chunks,
            "removed_rows": self.done.removed_rows,
        }

    @property
    def left(self) -> int:
        """How many still have their old name."""
        return self.users - self.renamed


def rename_users(
    connection: BaseDatabaseWrapper, keys: Keys, renamed: Renamed, *, pace: Pace,
    progress: Callable[[str, int, int], object],
) -> None:  # fmt: skip
    """Rename everybody who has his old name, one after the other. `connection` is r1_maint's.

    Raises database errors of the lists alone: what fails of one user is counted.
    """
    for _ in range(1 if renamed.dry_run else WALKS):
        users = _listed(connection)
        # Of who is left from the walk before, the second one says it again.
        renamed.users = renamed.renamed
        renamed.damaged = renamed.unknown = renamed.failed = 0
        progress("users", 0, len(users))
        for number, user in enumerate(users, 1):
            try:
                _renamed(connection, keys, user, renamed, pace)
            except MoveLost:
                continue
            except DecryptionFailed:
                renamed.damaged += 1
            except (MemoryServiceError, DatabaseError):
                renamed.failed += 1
            progress("users", number, len(users))


def retire(connection: BaseDatabaseWrapper, keys: Keys, progress: Callable[[str, int, int], object]) -> int:
    """Take away every link between old and new names; how many. Raises Refused while anybody has his old name."""
    if not keys.is_promoted:
        raise Refused("the new key names nobody yet: run rotate_hmac first")
    require_workers(connection, keys)
    left = Renamed(dry_run=True)
    rename_users(connection, keys, left, pace=Pace(0), progress=progress)
    if left.users or left.damaged or left.unknown or left.failed:
        raise Refused(
            f"{left.users} users have their old name, {left.damaged + left.failed + left.unknown} cannot be looked at: "
            "run rotate_hmac again; what does not open must be written anew, deleted or erased first"
        )
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(_BUSY)
        if cursor.fetchone()[0]:
            raise Refused("a user's old rows are being removed: run rotate_hmac again")
        cursor.execute(_DROP_LINKS)
        links = cursor.rowcount
        cursor.execute(_RETIRE, [fingerprint(keys.old)])
    return links


def _listed(connection: BaseDatabaseWrapper) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(_USERS)
        rows: list[tuple] = cursor.fetchall()
    return rows


def _renamed(connection: BaseDatabaseWrapper, keys: Keys, user: tuple, renamed: Renamed, pace: Pace) -> None:
    user_hash, state, _, space, moved_to = user
    if state == "moved":
        renamed.users += 1
        if not renamed.dry_run:
            remove_old_name(Move(user_hash, space, moved_to, space, MoveState.REMOVING), lambda rows: None)
            renamed.renamed += 1
        return
    user_id = under_profile(user_hash, _user_id)
    if user_id is None or hmac_user(user_id, keys.new) == user_hash:
        return
    if hmac_user(user_id, keys.old) != user_hash:
        renamed.unknown += 1
        return
    renamed.users += 1
    if not renamed.dry_run:
        new = hmac_user(user_id, keys.new)
        rename_user(connection, user_hash, new, user_id, renamed.done, pace=pace, tell=lambda: None)
        renamed.renamed += 1


def _user_id(profile: TenantProfile) -> str:
    with tenant_transaction(profile.user_hash) as tx:
        sealed = tx.execute(_USER_ID, [profile.user_hash])
        profile.verify(tx)
        [blob] = sealed.fetchone()
    try:
        return open_user_id(profile.newest, bytes(blob))
    except InvalidTag:
        raise DecryptionFailed() from None
