"""A user's move as `memory_moves` has it: from where to where, and how far it has come.

The row stands under the name that the user had before. It is made before anything is copied and goes with the last
thing that was left behind, so whoever finds it goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from memory.errors import MemoryServiceError
from memory.rls import TenantTransaction, tenant_transaction
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile

T = TypeVar("T")

_FIND = "SELECT from_space, target_hash, space, state FROM memory_moves WHERE user_hash = %s"
_BEGIN = """
INSERT INTO memory_moves (user_hash, from_space, target_hash, space) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"""
_SWITCHED = """
UPDATE memory_moves SET state = 'removing', switched_at = now()
WHERE user_hash = %s AND target_hash = %s AND space = %s AND state = 'copying' RETURNING true"""
_BACK = """
INSERT INTO memory_moves (user_hash, from_space, target_hash, space, state, switched_at)
VALUES (%s, %s, %s, %s, 'removing', now())"""
_END = "DELETE FROM memory_moves WHERE user_hash = %s AND target_hash = %s AND space = %s"


class Executes(Protocol):
    """A tenant's transaction, or a psycopg cursor."""

    def execute(self, sql: str, params: Any = ..., /) -> Any: ...


class MoveLost(MemoryServiceError):
    """The user is not being moved any more: he was erased, or somebody else has finished the move."""


class MoveState(StrEnum):
    """`copying`: requests go to where the user was. `removing`: to where he went; what he left is being removed."""

    COPYING = "copying"
    REMOVING = "removing"


@dataclass(frozen=True)
class Move:
    """From `from_space` under the name `user_hash` to `space` under `target_hash`, which is mostly the same name."""

    user_hash: str
    from_space: int
    target_hash: str
    space: int
    state: MoveState = MoveState.COPYING

    @property
    def renames(self) -> bool:
        """Whether the user's name in the database changes, and not only his space."""
        return self.target_hash != self.user_hash


def find_move(tx: TenantTransaction) -> Move | None:
    """The move that the user of `tx` is in."""
    row = tx.execute(_FIND, [tx.user_hash]).fetchone()
    if row is None:
        return None
    from_space, target_hash, space, state = row
    return Move(tx.user_hash, from_space, target_hash, space, MoveState(state))


def current_move(user_hash: str) -> Move | None:
    """The same in a transaction of its own."""
    with tenant_transaction(user_hash, reads_state=False) as tx:
        return find_move(tx)


def begin_move(tx: TenantTransaction, move: Move) -> Move:
    """Note that `move` begins, unless one is under way; the one that is. `tx` has locked the user's row."""
    tx.execute(_BEGIN, [tx.user_hash, move.from_space, move.target_hash, move.space])
    found = find_move(tx)
    if found is None:
        raise MoveLost()
    return found


def require_move(tx: TenantTransaction, move: Move) -> None:
    """Raises MoveLost where `move` is not as it was, in a transaction of the user it began with."""
    if find_move(tx) != move:
        raise MoveLost()


def while_moving(move: Move, work: Callable[[TenantProfile], T]) -> T:
    """`under_profile` of the user where he was. Raises MoveLost where he is there no more."""

    def where_he_was(profile: TenantProfile) -> tuple[T]:
        if profile.space != move.from_space:
            raise MoveLost()
        # Not None, which is what is given for a user who is not there.
        return (work(profile),)

    done = under_profile(move.user_hash, where_he_was)
    if done is None:
        raise MoveLost()
    return done[0]


def note_switched(tx: TenantTransaction, move: Move) -> None:
    """The user is where he goes from the commit of `tx` on. Raises MoveLost."""
    if tx.execute(_SWITCHED, [move.user_hash, move.target_hash, move.space]).fetchone() is None:
        raise MoveLost()


def note_renamed(cursor: Executes, move: Move) -> None:
    """The same for a user whose name changes, as r1_maint; under his new name a row says what his old one is."""
    row = cursor.execute(_SWITCHED, [move.user_hash, move.target_hash, move.space]).fetchone()
    if row is None:
        raise MoveLost()
    cursor.execute(_BACK, [move.target_hash, move.space, move.user_hash, move.space])


def end_move(tx: TenantTransaction, move: Move) -> None:
    """Nothing is left where the user was."""
    tx.execute(_END, [move.user_hash, move.target_hash, move.space])
