"""The only door to tenant rows.

`bind_tenant()` says whose request this is; `tenant_transaction()` opens a short transaction in
which PostgreSQL's row-level security lets exactly that tenant's rows through. The setting is
transaction-local, always: a session-level SET would outlive its request in every kind of pool.

    with bind_tenant(user_hash), tenant_transaction() as tx:
        rows = tx.execute("SELECT ... WHERE user_hash = %s", [tx.user_hash]).fetchall()

Statements inside are pipelined, BEGIN and COMMIT with them: they travel together, and only a fetch waits for
the server. Who has asked everything says so with `tx.end()`, and waits once for the whole transaction.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import psycopg
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from psycopg.pq import TransactionStatus

from memory import metrics
from memory.admission.deadline import deadline_at, remaining_seconds, require_time
from memory.admission.writers import WAIT_MAX_SECONDS, writers_turn
from memory.errors import CrossTenantAttempt, KeyUnavailable, TenantNotBound
from memory.isolation.audit import require_safe_database, verify_rls_isolation

__all__ = [
    "TenantState",
    "TenantTransaction",
    "bind_tenant",
    "bound_tenant",
    "give_back_connection",
    "joined_transaction",
    "refuse_cross_tenant",
    "set_rls_context",
    "tenant_transaction",
    "verify_rls_isolation",
]

USER_HASH_PATTERN = re.compile(r"[0-9a-f]{64}")

BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
BEGIN_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
SET_CONTEXT = "SELECT set_config('app.user_hash', %s, true)"
# For a request, which has a deadline; without one the role's own limits hold.
SET_LIMITS = "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)"
STATEMENT_MAX_SECONDS = 5.0  # the role's own (deploy/postgres/roles.sql)

# Read by every tenant transaction, so that a key erased or rotated elsewhere is noticed before a
# row is written or opened with it. A write locks the row until its commit: an erasure or a rotation of
# the key waits for it, and two writers of one user take their documents' locks one after the other,
# so that they cannot deadlock over two documents.
TENANT_STATE = """
SELECT t.state, t.generation, t.seal_count, t.chunk_count, k.key_id, k.sealed_key
FROM memory_tenants t
LEFT JOIN memory_data_keys k ON k.user_hash = t.user_hash AND k.generation = t.generation
WHERE t.user_hash = %s"""
TENANT_STATE_FOR_WRITE = TENANT_STATE + " FOR NO KEY UPDATE OF t"

_bound: ContextVar[str | None] = ContextVar("memory_bound_tenant", default=None)
_open: ContextVar[dict[str, TenantTransaction]] = ContextVar("memory_open_transactions", default={})  # noqa: B039


@dataclass(frozen=True)
class TenantState:
    """A tenant's row and its active data key, as one transaction saw them."""

    state: str
    generation: int
    seal_count: int
    chunk_count: int
    key_id: str | None
    sealed_key: bytes | None


@contextmanager
def bind_tenant(user_hash: str) -> Iterator[None]:
    """Make `user_hash` the tenant of everything this context does until the block ends.

    Raises CrossTenantAttempt when another tenant is bound already: one request has one user.
    """
    _require_hex(user_hash)
    if _bound.get() not in (None, user_hash):
        refuse_cross_tenant()
    token = _bound.set(user_hash)
    try:
        yield
    finally:
        _bound.reset(token)


def bound_tenant() -> str:
    """The bound tenant's hash, 64 hex digits. Raises TenantNotBound."""
    user_hash = _bound.get()
    if user_hash is None:
        raise TenantNotBound()
    return user_hash


def set_rls_context(conn, user_hash: str) -> None:
    """Set `app.user_hash` for the transaction that `conn` is in, and for that transaction only.

    `conn` is a Django connection or a psycopg connection inside a transaction. The one place that
    does so: Citus needs `SET LOCAL` here, since set_config() does not propagate to its workers.
    """
    _require_hex(user_hash)
    if not _in_transaction(conn):
        raise TenantNotBound("app.user_hash is transaction-local; open a transaction first")
    with conn.cursor() as cursor:
        cursor.execute(SET_CONTEXT, [user_hash])


class TenantTransaction:
    """An open transaction of one tenant. Made by `tenant_transaction()` and `joined_transaction()` only."""

    def __init__(self, connection, user_hash: str, *, write: bool, pipeline=None, closing: ExitStack | None = None):
        self.connection = connection
        self.user_hash = user_hash
        self.write = write
        self._pipeline = pipeline
        self._closing = closing
        self._joined = 0
        self._has_ended = False
        self._state_cursor = None
        self._state: TenantState | None = None

    def execute(self, sql: str, params=()):
        """Queue one statement and return its cursor; a fetch from it waits for the server."""
        if self._has_ended:
            raise transaction.TransactionManagementError("the tenant transaction has ended")
        cursor = self.connection.cursor()
        cursor.execute(sql, params)
        return cursor

    def sync(self) -> None:
        """Wait until the server has carried out everything queued; raise what failed."""
        if self._pipeline is not None:
            with self.connection.wrap_database_errors:
                self._pipeline.sync()

    def end(self) -> None:
        """Commit together with what is queued, and wait for all of it: from here one can only fetch.

        Otherwise the commit travels when the block ends. Does nothing where this transaction was joined: it is for
        its owner to end. Raises what failed, or that it is to be rolled back; then nothing is written. What is raised
        in the block after it undoes nothing.
        """
        if self._closing is None or self._joined:
            return
        if self.connection.needs_rollback:
            raise transaction.TransactionManagementError("the tenant transaction is to be rolled back")
        self._commit()

    def _commit(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        with self.connection.wrap_database_errors:
            commit = self.connection.connection.execute("COMMIT", prepare=False)
            self._closing.close()
        # PostgreSQL answers ROLLBACK, and no error, for a transaction that had failed.
        if commit.statusmessage != "COMMIT":
            raise transaction.TransactionManagementError("the tenant transaction had failed, and was rolled back")

    def _queue_state(self) -> None:
        self._state_cursor = self.execute(TENANT_STATE_FOR_WRITE if self.write else TENANT_STATE, [self.user_hash])

    def state(self, *, again: bool = False, even_inactive: bool = False) -> TenantState | None:
        """The tenant's state and active key as this transaction sees them; None when there is no such tenant.

        Raises KeyUnavailable while the tenant is being moved or erased, unless `even_inactive`.
        """
        if again:
            self._queue_state()
        if self._state_cursor is not None:
            row = self._state_cursor.fetchone()
            self._state_cursor = None
            self._state = row and TenantState(*row[:5], sealed_key=row[5] and bytes(row[5]))
        if self._state is not None and self._state.state != "active" and not even_inactive:
            raise KeyUnavailable(retry_after_seconds=5)
        return self._state


@contextmanager
def tenant_transaction(
    user_hash: str | None = None,
    *,
    write: bool = False,
    reads_state: bool = True,
    takes_turn: bool | None = None,
    keeps_connection: bool = False,
    using: str = DEFAULT_DB_ALIAS,
) -> Iterator[TenantTransaction]:
    """One short transaction as one tenant: the bound one, or `user_hash` where commands name it.

    Durable and outermost; READ ONLY, with one snapshot for all its statements, unless `write`. With
    `reads_state=False`, for what needs no key and must not wait for the tenant's writers, the tenant's row is
    neither read nor locked. A write that locks it, or `takes_turn`, waits for this process's other writers of the
    tenant before it takes a connection.
    Entered again for the same tenant it joins the open transaction. Raises TenantNotBound with
    nobody bound; CrossTenantAttempt when another tenant is bound or has the open transaction; Overloaded when the
    request's deadline has passed, or its user's writers take too long.
    Afterwards the connection is back in its pool, so none is held while a model runs. With `keeps_connection` it
    stays this thread's until its next tenant transaction, `give_back_connection()` or the end of the request.
    """
    tenant = bound_tenant() if user_hash is None else user_hash
    _require_hex(tenant)
    outer = _open.get().get(using)
    if _bound.get() not in (None, tenant) or (outer is not None and outer.user_hash != tenant):
        refuse_cross_tenant()
    if outer is not None:
        if write and not outer.write:
            raise transaction.TransactionManagementError("a write cannot join a read-only tenant transaction")
        outer._joined += 1
        try:
            yield outer
        finally:
            outer._joined -= 1
        return

    connection = connections[using]
    if takes_turn is None:
        takes_turn = write and reads_state
    turn = writers_turn(tenant, before_waiting=partial(give_back_connection, using)) if takes_turn else nullcontext()
    with turn:
        try:
            require_time()
            require_safe_database(connection)
            with transaction.atomic(using=using, durable=True), _pipelined(connection, tenant, write=write) as tx:
                if reads_state:
                    tx._queue_state()
                token = _open.set({**_open.get(), using: tx})
                try:
                    yield tx
                finally:
                    _open.reset(token)
                # Else the end of the atomic block rolls it back.
                if not connection.needs_rollback:
                    tx._commit()
        except DatabaseError as exc:
            count_refusal(exc)
            raise
        finally:
            if not keeps_connection:
                give_back_connection(using)


def give_back_connection(using: str = DEFAULT_DB_ALIAS) -> None:
    """Return this thread's connection to its pool, if it has one that is in no transaction.

    For whoever is about to wait for something else than the database: a body, a model, another user's answer.
    """
    connection = connections[using]
    if connection.connection is not None and not connection.in_atomic_block:
        connection.close()


@contextmanager
def _pipelined(connection, user_hash: str, *, write: bool) -> Iterator[TenantTransaction]:
    """A tenant's transaction in a pipeline of its own, from BEGIN on, inside the block of `transaction.atomic()`.

    psycopg would send its own BEGIN ahead and wait for it, and COMMIT after the pipeline: between them and the
    statements the session would be idle in transaction.
    """
    connection.ensure_connection()
    raw = connection.connection
    with connection.wrap_database_errors, ExitStack() as closing:
        if pool := getattr(raw, "_pool", None):
            raw._pool = _ClosingPool(pool)
            closing.callback(setattr, raw, "_pool", pool)
        raw.autocommit = True
        pipeline = closing.enter_context(raw.pipeline())
        raw.execute(BEGIN_WRITE if write else BEGIN_READ)
        set_rls_context(connection, user_hash)
        _limit_waits(connection)
        yield TenantTransaction(connection, user_hash, write=write, pipeline=pipeline, closing=closing)


def _limit_waits(connection) -> None:
    """Let no statement of this transaction, and no lock it waits for, outlast the request's deadline."""
    if deadline_at() == math.inf:
        return
    limits = (remaining_seconds(WAIT_MAX_SECONDS), remaining_seconds(STATEMENT_MAX_SECONDS))
    with connection.cursor() as cursor:
        # At least 1: PostgreSQL takes 0 for no limit.
        cursor.execute(SET_LIMITS, [str(max(1, math.ceil(seconds * 1000))) for seconds in limits])


class _ClosingPool:
    """The pool of a connection as long as it is in a tenant's transaction: closes what is given back from in there.

    In a pipeline libpq takes a connection for idle though its transaction is open. The pool would believe it and
    lend it, tenant and all, to the next.
    """

    def __init__(self, pool):
        self._pool = pool

    def putconn(self, raw) -> None:
        raw._pool = self._pool
        raw.pgconn.finish()
        self._pool.putconn(raw)


@contextmanager
def joined_transaction(conn, user_hash: str) -> Iterator[TenantTransaction]:
    """A writing transaction of `user_hash` on `conn`, for callers that bring their own connection.

    `conn` is a Django connection or a psycopg one. Joins its open transaction, or opens and commits
    one. Raises CrossTenantAttempt when that transaction is another tenant's.
    """
    is_django = hasattr(conn, "in_atomic_block")
    if is_django and (not conn.in_atomic_block or conn.alias in _open.get()):
        with tenant_transaction(user_hash, write=True, using=conn.alias) as tx:
            yield tx
        return
    try:
        require_safe_database(conn)
        with transaction.atomic(using=conn.alias) if is_django else conn.transaction():
            with conn.cursor() as cursor:
                cursor.execute("SELECT current_setting('app.user_hash', true)")
                before = cursor.fetchone()[0]
            if before not in (None, "", user_hash) or _bound.get() not in (None, user_hash):
                refuse_cross_tenant()
            set_rls_context(conn, user_hash)
            tx = TenantTransaction(conn, user_hash, write=True)
            tx._queue_state()
            yield tx
            if not before:
                # The caller's transaction goes on as it came: with nobody bound.
                with conn.cursor() as cursor:
                    cursor.execute(SET_CONTEXT, [""])
    except (DatabaseError, psycopg.Error) as exc:
        count_refusal(exc)
        raise


def count_refusal(exc: DatabaseError | psycopg.Error) -> None:
    """Count a statement that isolation stopped, once: 42501 from the guard, a grant or a WITH CHECK."""
    error = exc if isinstance(exc, psycopg.Error) else exc.__cause__
    if getattr(error, "sqlstate", None) == "42501" and not getattr(error, "is_counted", False):
        error.is_counted = True
        metrics.rls_denied.inc()
        if error.diag.source_function == "ExecWithCheckOptions":
            metrics.cross_tenant_attempts.inc()


def counting_refusals(execute, sql, params, many, context):
    """Execute wrapper for statements outside a tenant transaction; installed on each connection."""
    try:
        return execute(sql, params, many, context)
    except DatabaseError as exc:
        count_refusal(exc)
        raise


def refuse_cross_tenant() -> NoReturn:
    """The server contradicted itself about whose data it holds: count it, and raise CrossTenantAttempt."""
    metrics.cross_tenant_attempts.inc()
    raise CrossTenantAttempt()


def _require_hex(user_hash: str) -> None:
    if not USER_HASH_PATTERN.fullmatch(user_hash):
        raise TenantNotBound("a tenant is named by 64 hex digits")


def _in_transaction(conn) -> bool:
    if hasattr(conn, "in_atomic_block"):
        return conn.in_atomic_block
    return not conn.autocommit or conn.info.transaction_status != TransactionStatus.IDLE
