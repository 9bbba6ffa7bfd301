"""Forget a user: keys first, then rows, then the user; what is left is a line in the ledger and a receipt."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from uuid6 import uuid7

from memory.erasure.key_remains import clear_remains_soon
from memory.erasure.other_name import delete_keys, erase_other_name
from memory.erasure.tables import BATCH_ROWS, ERASED_TABLES, KEY_TABLES
from memory.errors import KeyUnavailable
from memory.rls import TenantTransaction, bound_tenant, tenant_transaction
from memory.sealing.counts import count
from memory.sealing.key_changes import note_key_change
from memory.sealing.keyring import forget_profiles

# The last of a user whose erasure nobody records: few rows.
_LAST_TABLES = ("memory_rate_buckets", *KEY_TABLES, "memory_tenants")
# While a tenant is being erased its counts say what has been erased so far.
_COUNTED = {"memory_chunks": "chunks", "memory_documents": "documents"}

# Whether any row of a user's memory is there, keys included; the user's own row apart.
ANY_ROWS = " OR ".join(
    f"EXISTS (SELECT FROM {table} WHERE user_hash = %(user_hash)s)" for table in (*ERASED_TABLES, *KEY_TABLES)
)
# Rows that came back without their user's, from a backup say, are erased like any.
_ADOPT = (
    "INSERT INTO memory_tenants (user_hash, profile, user_id_cipher, active_space, state, created_at)"
    f" SELECT %(user_hash)s, gen_random_uuid(), '', 0, 'erasing', clock_timestamp() WHERE {ANY_ROWS}"
    " ON CONFLICT (user_hash) DO NOTHING"
)
_LOCK = "SELECT state, created_at, now() FROM memory_tenants WHERE user_hash = %s FOR UPDATE"
# When the memory began says which one it is: another call may have finished, the user begun anew, and that memory be
# in the middle of an erasure of its own.
_STILL = """
SELECT true FROM memory_tenants WHERE user_hash = %s AND state = 'erasing' AND created_at = %s FOR UPDATE"""
_MARK = """
UPDATE memory_tenants SET state = 'erasing', document_count = 0, chunk_count = 0, updated_at = now()
WHERE user_hash = %s"""
_RECORD = """
INSERT INTO memory_erasures (user_hash, id, erased_at, unrecoverable_after, erased_documents, erased_chunks)
SELECT user_hash, %s, moment, moment + %s, document_count, chunk_count
FROM memory_tenants, (SELECT clock_timestamp() AS moment OFFSET 0) AS clock WHERE user_hash = %s
RETURNING erased_at, unrecoverable_after, erased_documents, erased_chunks"""
_DELETE_TENANT = "DELETE FROM memory_tenants WHERE user_hash = %s"
_FIRST_RECORD_SINCE = """
SELECT erased_at, unrecoverable_after, erased_documents, erased_chunks FROM memory_erasures
WHERE user_hash = %s AND erased_at > %s ORDER BY erased_at LIMIT 1"""


@dataclass(frozen=True)
class Erasure:
    """What was erased and when; `key_destroyed` is False only where there was nothing to erase."""

    user_hash: str
    erased_documents: int
    erased_chunks: int
    key_destroyed: bool
    unrecoverable_after: datetime
    at: datetime


def erase_memory(*, older_than: datetime | None = None) -> Erasure:
    """Erase the bound tenant for good; with `older_than`, only a memory begun before that moment.

    1. One transaction marks the tenant as being erased and deletes the keys. From its commit on nothing
       opens, here or in any backup made later, and every other request of the user is refused.
    2. Batches delete the rows, each in a transaction of its own that counts them in the tenant's row.
    3. The last transaction writes the ledger and deletes the tenant: the user may begin anew, with a new key.

    Killed anywhere, it is finished by the next call, with the counts of both; of two at once both finish, with
    the same numbers. A user without rows is not written into the ledger: no backup could bring anything back,
    and a ledger that anybody's token can make longer is a way to fill the disk. Raises KeyUnavailable while
    the tenant is being moved, and database errors.
    """
    user_hash = bound_tenant()
    begun = _destroy_keys(user_hash, older_than)
    erase_other_name(user_hash)
    if begun is None:
        with tenant_transaction(user_hash, reads_state=False) as tx:
            now = tx.execute("SELECT now()").fetchone()[0].astimezone(UTC)
        return Erasure(user_hash, 0, 0, False, now + _retention(), now)
    forget_profiles(user_hash)
    for table in ERASED_TABLES:
        _delete_rows(user_hash, begun.memory, table)
    erasure = _finish(user_hash, begun)
    forget_profiles(user_hash)
    clear_remains_soon()
    return erasure


def erase_unrecorded() -> dict[str, int]:
    """Erase the bound tenant in the steps of `erase_memory`, rate buckets too, without a line in the ledger.

    For users with nobody behind them: nobody asks for a receipt, and no restore must do it again. Returns the rows
    deleted by this call, by table. Raises as `erase_memory`, and like it is finished by the next call.
    """
    user_hash = bound_tenant()
    deleted = dict.fromkeys((*ERASED_TABLES, *_LAST_TABLES), 0)
    begun = _destroy_keys(user_hash, None)
    erase_other_name(user_hash)
    if begun is None:
        return deleted
    forget_profiles(user_hash)
    for table in ERASED_TABLES:
        deleted[table] = _delete_rows(user_hash, begun.memory, table)
    with tenant_transaction(user_hash, write=True, reads_state=False, takes_turn=True) as tx:
        if _is_still_erasing(tx, begun.memory):
            last = {
                table: tx.execute(f"DELETE FROM {table} WHERE user_hash = %s", [user_hash]) for table in _LAST_TABLES
            }
            tx.sync()
            deleted |= {table: cursor.rowcount for table, cursor in last.items()}
    for table, keys in begun.keys.items():
        deleted[table] += keys
    forget_profiles(user_hash)
    return deleted


@dataclass(frozen=True)
class _Begun:
    """Which of the user's memories is being erased, by when it began, and since when this call has been at it.

    `keys`: how many keys this call has destroyed, by table.
    """

    memory: datetime
    at: datetime
    keys: dict[str, int]


def _destroy_keys(user_hash: str, older_than: datetime | None) -> _Begun | None:
    """The first step; None where there is nothing to erase."""
    with tenant_transaction(user_hash, write=True, reads_state=False, takes_turn=True) as tx:
        tx.execute(_ADOPT, {"user_hash": user_hash})
        row = tx.execute(_LOCK, [user_hash]).fetchone()
        if row is None:
            return None
        state, memory, now = row
        if state not in ("active", "erasing"):
            raise KeyUnavailable(retry_after_seconds=5)
        if state == "active":
            if older_than is not None and memory >= older_than:
                return None
            tx.execute(_MARK, [user_hash])
        deleted = delete_keys(tx)
        note_key_change(tx)
        tx.sync()
    return _Begun(memory, now, {table: cursor.rowcount for table, cursor in deleted.items()})


def _delete_rows(user_hash: str, memory: datetime, table: str) -> int:
    """Delete one table's rows in order of its key, so that no batch walks over those that went before; how many."""
    last: tuple = ()
    rows = 0
    while True:
        with tenant_transaction(user_hash, write=True, reads_state=False, takes_turn=True) as tx:
            if not _is_still_erasing(tx, memory):
                return rows
            bound = tx.execute(*_batch_end(table, user_hash, last)).fetchone()
            deleted = tx.execute(*_delete_range(table, user_hash, last, bound))
            tx.sync()
            rows += deleted.rowcount
            if counter := _COUNTED.get(table):
                count(tx, **{counter: deleted.rowcount})
        if bound is None:
            return rows
        last = bound


def _finish(user_hash: str, begun: _Begun) -> Erasure:
    """The last step. Where another call has finished first, what that one wrote."""
    with tenant_transaction(user_hash, write=True, reads_state=False, takes_turn=True) as tx:
        if _is_still_erasing(tx, begun.memory):
            delete_keys(tx)
            recorded = tx.execute(_RECORD, [uuid7(), _retention(), user_hash])
            tx.execute(_DELETE_TENANT, [user_hash])
        else:
            recorded = tx.execute(_FIRST_RECORD_SINCE, [user_hash, begun.at])
        at, unrecoverable_after, documents, chunks = recorded.fetchone()
    return Erasure(user_hash, documents, chunks, True, unrecoverable_after.astimezone(UTC), at.astimezone(UTC))


def _is_still_erasing(tx: TenantTransaction, memory: datetime) -> bool:
    """Whether the user's memory is that one still, locked now."""
    return tx.execute(_STILL, [tx.user_hash, memory]).fetchone() is not None


def _batch_end(table: str, user_hash: str, last: tuple) -> tuple[str, list]:
    """The key of a batch's last row; no row where fewer are left."""
    columns = ERASED_TABLES[table]
    sql = f"SELECT {', '.join(columns)} FROM {table} WHERE user_hash = %s"
    after, params = _compared(columns, ">", last)
    return f"{sql}{after} ORDER BY {', '.join(columns)} OFFSET %s LIMIT 1", [user_hash, *params, BATCH_ROWS - 1]


def _delete_range(table: str, user_hash: str, last: tuple, end: tuple | None) -> tuple[str, list]:
    columns = ERASED_TABLES[table]
    after, after_params = _compared(columns, ">", last)
    until, until_params = _compared(columns, "<=", end or ())
    return f"DELETE FROM {table} WHERE user_hash = %s{after}{until}", [user_hash, *after_params, *until_params]


def _compared(columns: tuple[str, ...], operator: str, key: tuple) -> tuple[str, list]:
    if not key:
        return "", []
    return f" AND ({', '.join(columns)}) {operator} ({', '.join(['%s'] * len(key))})", list(key)


def _retention() -> timedelta:
    return timedelta(days=settings.MEMORY_KEY_BACKUP_RETENTION_DAYS)
