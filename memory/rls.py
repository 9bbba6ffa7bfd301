"""The only door to tenant rows.

`bind_tenant()` says whose request this is; `tenant_transaction()` opens a short transaction in
which PostgreSQL's row-level security lets exactly that tenant's rows through. The setting is
transaction-local, always: a session-level SET would outlive its request in every kind of pool.

    with bind_tenant(user_hash), tenant_transaction() as tx:
        rows = tx.execute("SELECT ... WHERE user_hash = %s", [tx.user_hash]).fetchall()

Statements inside are pipelined, BEGIN and COMMIT with them: they travel together, and only a fetch waits for
the server. Who has asked everything says so with `tx.end()`, and waits once for the whole transaction.

Longer than 250 lines on purpose: there is one door, and nobody is bound but here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn

import psycopg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, transaction
from psycopg.pq import TransactionStatus

from memory import metrics
from memory.admission.deadline import require_time
from memory.admission.writers import writers_turn
from memory.errors import CrossTenantAttempt, TenantNotBound
from memory.isolation.audit import (
    AnyConnection,
    require_safe_database,
    require_safe_server,
    verify_rls_isolation,
)
from memory.isolation.pipeline import LIMITS, TenantState, TenantTransaction, limits_of_waits, pipelined
from memory.security import hmac_user

__all__ = [
    "TenantState",
    "TenantTransaction",
    "bind_tenant",
    "bind_transaction",
    "bound_tenant",
    "give_back_connection",
    "joined_transaction",
    "refuse_cross_tenant",
    "set_rls_context",
    "tenant_transaction",
    "under_other_name",
    "verify_rls_isolation",
]

USER_HASH_PATTERN = re.compile(r"[0-9a-f]{64}")
SET_CONTEXT = "SELECT set_config('app.user_hash', %s, true)"
OTHER_NAME = "SELECT true FROM memory_moves WHERE user_hash = %s AND target_hash = %s"
GET_CONTEXT = "SELECT current_setting('app.user_hash', true)"

_bound: ContextVar[str | None] = ContextVar("memory_bound_tenant", default=None)
_open: ContextVar[dict[str, TenantTransaction]] = ContextVar("memory_open_transactions", default={})  # noqa: B039


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


@contextmanager
def under_other_name(user_hash: str) -> Iterator[None]:
    """The bound tenant under another name of his for a block: the one that his own row of memory_moves names.

    Raises CrossTenantAttempt where it names no such one. For an erasure, which reaches both places of a user who is
    being renamed.
    """
    with tenant_transaction(reads_state=False) as tx:
        his = tx.execute(OTHER_NAME, [tx.user_hash, user_hash]).fetchone()
    if his is None:
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


def bind_transaction(conn: AnyConnection, user_hash: str) -> None:
    """Set `app.user_hash` for the transaction that `conn` is in, and for that transaction only.

    `conn` is a Django connection or a psycopg connection inside a transaction.
    """
    _require_hex(user_hash)
    _bind(conn, user_hash)


def _bind(conn: AnyConnection, user_hash: str, limits: Sequence[str] = ()) -> None:
    """As `bind_transaction`, for a hash that has been looked at; `limits`: parameters of LIMITS, set with it."""
    if not _in_transaction(conn):
        raise TenantNotBound("app.user_hash is transaction-local; open a transaction first")
    binding, params = _binding(user_hash)
    with conn.cursor() as cursor:
        if limits and params is not None:
            cursor.execute(f"{binding}, {LIMITS}", [*params, *limits])
            return
        cursor.execute(binding, params)
        if limits:
            cursor.execute(f"SELECT {LIMITS}", limits)


def _binding(user_hash: str) -> tuple[str, list[str] | None]:
    """The statement that binds `user_hash`, or nobody where that is empty, until the transaction ends.

    Citus passes on to its workers what SET LOCAL says, and not what set_config() does. SET takes no parameters: that
    what stands in it is 64 hex digits has been seen to.
    """
    if settings.MEMORY_TENANT_BINDING == "set_local":
        return f"SET LOCAL app.user_hash = '{user_hash}'", None
    return SET_CONTEXT, [user_hash]


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
        with outer.joined():
            yield outer
        return

    connection = connections[using]
    if takes_turn is None:
        takes_turn = write and reads_state
    turn = writers_turn(tenant, before_waiting=partial(give_back_connection, using)) if takes_turn else nullcontext()
    with turn:
        try:
            require_time()
            require_safe_database(connection)
            with transaction.atomic(using=using, durable=True), pipelined(connection, tenant, write=write) as tx:
                _bind(connection, tenant, limits_of_waits())
                if reads_state:
                    tx.ask_state()
                token = _open.set({**_open.get(), using: tx})
                try:
                    yield tx
                finally:
                    _open.reset(token)
                # Else the end of the atomic block rolls it back.
                if not connection.needs_rollback:
                    tx.commit()
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
def joined_transaction(conn: AnyConnection, user_hash: str, *, reads_state: bool = True) -> Iterator[TenantTransaction]:
    """A writing transaction of `user_hash` on `conn`, for callers that bring their own connection.

    `conn` is a Django connection or a psycopg one. Joins its open transaction, or opens and commits
    one. `reads_state` as in `tenant_transaction`. Raises CrossTenantAttempt when that transaction is another tenant's.
    """
    if not isinstance(conn, psycopg.Connection) and (not conn.in_atomic_block or conn.alias in _open.get()):
        with tenant_transaction(user_hash, write=True, reads_state=reads_state, using=conn.alias) as tx:
            yield tx
        return
    try:
        require_safe_database(conn)
        with _block(conn):
            with conn.cursor() as cursor:
                cursor.execute(GET_CONTEXT)
                [before] = cursor.fetchone() or [None]
            _require_nobody_elses(before, user_hash)
            bind_transaction(conn, user_hash)
            tx = TenantTransaction(conn, user_hash, write=True)
            if reads_state:
                tx.ask_state()
            yield tx
            if not before:
                # The caller's transaction goes on as it came: with nobody bound.
                with conn.cursor() as cursor:
                    cursor.execute(*_binding(""))
    except (DatabaseError, psycopg.Error) as exc:
        count_refusal(exc)
        raise


class set_rls_context:
    """Bind `user_id` on `conn` for a block, in the transaction that is open there or in one that the block commits.

        with set_rls_context(conn, "alice") as user_hash:          # conn: a Django or a psycopg connection
        async with set_rls_context(conn, "alice") as user_hash:    # conn: a psycopg.AsyncConnection

    Gives the user's hash, which every statement's WHERE names too. Afterwards `conn` is as it came: with nobody
    bound. Raises InvalidUserId, CrossTenantAttempt when another user is bound, UnsafeDatabase, and TypeError for a
    connection of the other kind.
    """

    def __init__(self, conn: AnyConnection | psycopg.AsyncConnection[Any], user_id: str):
        self._conn = conn
        self._user_hash = hmac_user(user_id)

    def __enter__(self) -> str:
        if isinstance(self._conn, psycopg.AsyncConnection):
            raise TypeError("an asynchronous connection is bound by `async with`")
        self._joined = joined_transaction(self._conn, self._user_hash, reads_state=False)
        return self._joined.__enter__().user_hash

    def __exit__(self, *error: Any) -> bool | None:
        return self._joined.__exit__(*error)

    async def __aenter__(self) -> str:
        if not isinstance(self._conn, psycopg.AsyncConnection):
            raise TypeError("a synchronous connection is bound by `with`")
        self._awaited = _joined_async(self._conn, self._user_hash)
        return await self._awaited.__aenter__()

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._awaited.__aexit__(*error)


@asynccontextmanager
async def _joined_async(conn: psycopg.AsyncConnection[Any], user_hash: str) -> AsyncIterator[str]:
    """`joined_transaction`, as far as it goes without the tenant's state, on an asynchronous connection."""
    try:
        await asyncio.to_thread(require_safe_server, conn.info)
        async with conn.transaction():
            [before] = await (await conn.execute(GET_CONTEXT)).fetchone() or [None]
            _require_nobody_elses(before, user_hash)
            await conn.execute(*_binding(user_hash))
            yield user_hash
            if not before:
                await conn.execute(*_binding(""))
    except psycopg.Error as exc:
        count_refusal(exc)
        raise


def _require_nobody_elses(before: str | None, user_hash: str) -> None:
    """Neither the transaction, of whom `before` says whose it is, nor this context may be another tenant's."""
    if before not in (None, "", user_hash) or _bound.get() not in (None, user_hash):
        refuse_cross_tenant()


def count_refusal(exc: DatabaseError | psycopg.Error) -> None:
    """Count a statement that isolation stopped, once: 42501 from the guard, a grant or a WITH CHECK."""
    error = exc if isinstance(exc, psycopg.Error) else exc.__cause__
    if isinstance(error, psycopg.Error) and error.sqlstate == "42501" and "is_counted" not in vars(error):
        vars(error)["is_counted"] = True
        metrics.rls_denied.inc()
        if error.diag.source_function == "ExecWithCheckOptions":
            metrics.cross_tenant_attempts.inc()


def counting_refusals(
    execute: Callable[[str, Any, bool, dict[str, Any]], Any],
    sql: str,
    params: Any,
    many: bool,
    context: dict[str, Any],
) -> Any:
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


def _block(conn: AnyConnection) -> AbstractContextManager[object]:
    return conn.transaction() if isinstance(conn, psycopg.Connection) else transaction.atomic(using=conn.alias)


def _in_transaction(conn: AnyConnection) -> bool:
    if not isinstance(conn, psycopg.Connection):
        return conn.in_atomic_block
    return not conn.autocommit or conn.info.transaction_status != TransactionStatus.IDLE
