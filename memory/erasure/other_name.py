"""What a user who is being renamed has under the name that he is not served under, erased with him."""

from __future__ import annotations

from memory.erasure.tables import BATCH_ROWS, ERASED_TABLES, KEY_TABLES
from memory.isolation.connection import Cursor
from memory.rls import TenantTransaction, tenant_transaction, under_other_name
from memory.sealing.key_changes import note_key_change
from memory.sealing.keyring import forget_profiles

_OTHER_NAME = "SELECT target_hash FROM memory_moves WHERE user_hash = %s AND target_hash <> user_hash"


def erase_other_name(user_hash: str) -> None:
    """Erase what a user who is being renamed has under his other name: a copy that is being made, or what is left.

    `user_hash` is bound. Keys first, as ever; the note of the move goes last of all, with the user's own rows, so that
    the next call finds it.
    """
    with tenant_transaction(user_hash, reads_state=False) as tx:
        row = tx.execute(_OTHER_NAME, [user_hash]).fetchone()
    if row is None:
        return
    with under_other_name(row[0]):
        with tenant_transaction(write=True, reads_state=False, takes_turn=True) as tx:
            # Whoever copies holds this row's lock while he writes, and needs it to go on.
            tx.execute("DELETE FROM memory_tenants WHERE user_hash = %s", [tx.user_hash])
            delete_keys(tx)
            note_key_change(tx)
        forget_profiles(row[0])
        for table in (*ERASED_TABLES, "memory_rate_buckets"):
            rows = BATCH_ROWS
            while rows == BATCH_ROWS:
                rows = delete_some(row[0], table)


def delete_some(user_hash: str, table: str) -> int:
    """Delete up to BATCH_ROWS of a user's rows, in a transaction that does not look at his state; how many."""
    key = ", ".join(ERASED_TABLES.get(table, ("bucket",)))
    batch = f"SELECT {key} FROM {table} WHERE user_hash = %(user_hash)s ORDER BY {key} LIMIT {BATCH_ROWS}"
    with tenant_transaction(user_hash, write=True, reads_state=False, takes_turn=True) as tx:
        deleted = tx.execute(
            f"DELETE FROM {table} WHERE user_hash = %(user_hash)s AND ({key}) IN ({batch})", {"user_hash": tx.user_hash}
        )
        tx.sync()
        return deleted.rowcount


def delete_keys(tx: TenantTransaction) -> dict[str, Cursor]:
    """Queue the deletion of all of a user's keys, by table."""
    return {table: tx.execute(f"DELETE FROM {table} WHERE user_hash = %s", [tx.user_hash]) for table in KEY_TABLES}
