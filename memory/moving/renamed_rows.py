"""What is left under a user's old name, removed batch by batch after the switch; a link to the new one stays."""

from __future__ import annotations

from collections.abc import Callable

from memory.erasure.other_name import delete_keys, delete_some
from memory.erasure.tables import BATCH_ROWS, ERASED_TABLES
from memory.moving.move import Move, MoveLost
from memory.rls import tenant_transaction
from memory.sealing.key_changes import note_key_change
from memory.sealing.keyring import forget_profiles

_NOTES_OF_MOVES = ("memory_moves", "memory_moved_documents")
_STATE = "SELECT state FROM memory_tenants WHERE user_hash = %s FOR UPDATE"


def remove_old_name(move: Move, tell: Callable[[int], object]) -> None:
    """Remove the keys under the old name, then the rows, then the notes of the move; `tell` hears of rows.

    Killed anywhere it is done again from the beginning. Raises MoveLost where the user is served under that name.
    """
    with tenant_transaction(move.user_hash, write=True, reads_state=False, takes_turn=True) as tx:
        row = tx.execute(_STATE, [move.user_hash]).fetchone()
        if row is not None and row[0] != "moved":
            raise MoveLost()
        delete_keys(tx)
        note_key_change(tx)
    forget_profiles(move.user_hash)
    for table in (*ERASED_TABLES, "memory_rate_buckets"):
        if table not in _NOTES_OF_MOVES:
            _delete_all(move.user_hash, table, tell)
    # The note under the old name goes last: who is stopped before finds it.
    _delete_all(move.target_hash, "memory_moved_documents", tell)
    _delete_all(move.target_hash, "memory_moves", tell)
    _delete_all(move.user_hash, "memory_moves", tell)


def _delete_all(user_hash: str, table: str, tell: Callable[[int], object]) -> None:
    rows = BATCH_ROWS
    while rows == BATCH_ROWS:
        rows = delete_some(user_hash, table)
        tell(rows)
