"""What destroyed keys leave in their tables' files: cleared away by rewriting the tables.

A deleted row's bytes stay in the file until a VACUUM, and what was last on its page stays even then, until another row
comes there. Only VACUUM FULL leaves nothing behind. It locks each key table while it runs, so after an erasure the
service rewrites small ones only, and vacuums large ones; so does `rotate_keys --retire`. `manage.py prune_expired`
rewrites any. Before PostgreSQL 17 the owner alone may, so the commands do it there and the service does not.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

import psycopg
from django.db import connections
from django.db.utils import DatabaseError, InterfaceError, OperationalError

# Transactions that began before an erasure keep its row from being cleared: r1_app's have ended by then.
SETTLE_SECONDS = 15.0
# About 20,000 keys, rewritten in some 20 ms.
REWRITE_MAX_BYTES = 4_000_000
# How long a rewriting waits for its lock, and every request behind it, where requests go on: less than a second, after
# which PostgreSQL would call off an autovacuum that is in the way.
SERVICE_LOCK_MS = 50
SERVICE_TRIES = 20
VACUUM_LOCK_MS = 10_000
COMMAND_LOCK_MS = 1000
COMMAND_TRIES = 10
APART_SECONDS = 1.0
CONNECT_SECONDS = 5
GRANTED_FROM_VERSION = 170_000

_SIZE = "SELECT pg_relation_size('memory_data_keys') + pg_relation_size('memory_search_keys')"
_VACUUM = "VACUUM memory_data_keys, memory_search_keys"
_REWRITE = "VACUUM (FULL) memory_data_keys, memory_search_keys"

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_is_wanted = False
_thread: threading.Thread | None = None


def clear_remains_soon() -> None:
    """Clear them in a thread of this process, once for all erasures of SETTLE_SECONDS. Returns at once, never fails.

    A process that ends before leaves it to the next erasure, or to the command.
    """
    global _is_wanted, _thread
    with _lock:
        _is_wanted = True
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_run, name="key-remains", daemon=True)
            _thread.start()


def rewrite_keys(maint) -> None:
    """Rewrite the key tables, whatever their size, as r1_maint over `maint` or, before PostgreSQL 17, as the owner.

    `maint` is a Django connection outside a transaction. Requests wait while it runs. Raises database errors, among
    them OperationalError where the table was in use at every try.
    """
    _vacuum(maint, _REWRITE, lock_ms=COMMAND_LOCK_MS, tries=COMMAND_TRIES)


def clear_remains(maint) -> bool:
    """Clear them while requests go on: True where the tables were rewritten, False for a VACUUM.

    That is for large tables, and for those that were in use at every try to rewrite them. After it some of what was
    last on its page may be left, until `rewrite_keys`. Otherwise as that.
    """
    with maint.cursor() as cursor:
        cursor.execute(_SIZE)
        is_small = cursor.fetchone()[0] <= REWRITE_MAX_BYTES
    if is_small:
        with suppress(OperationalError):
            _vacuum(maint, _REWRITE, lock_ms=SERVICE_LOCK_MS, tries=SERVICE_TRIES)
            return True
    _vacuum(maint, _VACUUM, lock_ms=VACUUM_LOCK_MS, tries=COMMAND_TRIES)
    return False


def _vacuum(maint, statement: str, *, lock_ms: int, tries: int) -> None:
    maint.ensure_connection()
    may = maint.pg_version >= GRANTED_FROM_VERSION
    connection = maint if may else connections["owner"]
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {lock_ms}")
            try:
                for tries_left in reversed(range(tries)):
                    try:
                        cursor.execute(statement)
                        return
                    except OperationalError:
                        if not tries_left:
                            raise
                        time.sleep(APART_SECONDS)
            finally:
                # What the command does next waits as long as its role may. A connection that was lost has no setting.
                with suppress(DatabaseError, InterfaceError):
                    cursor.execute("RESET lock_timeout")
    finally:
        if not may:
            connection.close()


def _run() -> None:
    global _is_wanted, _thread
    while True:
        time.sleep(SETTLE_SECONDS)
        with _lock:
            _is_wanted = False
        try:
            _clear()
        except psycopg.Error as exc:
            logger.warning("the remains of erased keys are left to prune_expired (%s)", type(exc).__name__)
        with _lock:
            if not _is_wanted:
                _thread = None
                return


def _clear() -> None:
    """As r1_app, on a connection of its own, outside any transaction."""
    params = {"connect_timeout": CONNECT_SECONDS} | connections["default"].get_connection_params()
    with psycopg.connect(**params, autocommit=True) as connection:
        if connection.info.server_version < GRANTED_FROM_VERSION:
            return
        [size_bytes] = connection.execute(_SIZE).fetchone() or [0]
        if size_bytes <= REWRITE_MAX_BYTES:
            try:
                connection.execute(f"SET lock_timeout = {SERVICE_LOCK_MS}")
                connection.execute(_REWRITE)
                return
            except psycopg.errors.LockNotAvailable:
                pass
        # It waits for another VACUUM alone, one of PostgreSQL's own say, and keeps nobody waiting.
        connection.execute(f"SET lock_timeout = {VACUUM_LOCK_MS}")
        connection.execute(_VACUUM)
