"""What a tenant's transaction is: BEGIN, its statements and COMMIT, in one pipeline.

psycopg would send its own BEGIN ahead and wait for it, and COMMIT after the pipeline: between them and the statements
the session would be idle in transaction. What this rests on in psycopg and Django, and the way back, is in
deploy/decisions/0011-a-tenants-transaction-in-a-pipeline.md. Who may open one, and as whom, `memory/rls.py` decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

import psycopg
import psycopg_pool
from django.conf import settings
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.admission.deadline import deadline_at, remaining_seconds
from memory.admission.writers import WAIT_MAX_SECONDS
from memory.errors import KeyUnavailable
from memory.isolation.connection import Connection, Cursor, Params, ask_for_binary
from memory.isolation.partitions import in_partition, partition_of

BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
BEGIN_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
# For a request, which has a deadline; without one the role's own limits hold. Columns of a SELECT.
LIMITS = "set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)"
STATEMENT_MAX_SECONDS = 5.0  # the role's own (deploy/postgres/roles.sql)
# Whether the statements that follow in the transaction are planned each for its parameters, as is the role's default,
# or once on each connection for any.
SET_PLANS = "SELECT set_config('plan_cache_mode', %s, true)"
_CUSTOM, _GENERIC = "force_custom_plan", "force_generic_plan"

# Read by every tenant transaction, so that a key erased or rotated elsewhere, or another active space, is noticed
# before a row is written or opened with it. A write locks the row until its commit: an erasure or a rotation of
# the key waits for it, and two writers of one user take their documents' locks one after the other,
# so that they cannot deadlock over two documents.
TENANT_STATE = """
SELECT state, profile, active_space, generation, seal_count, chunk_count, indexed_space
FROM memory_tenants WHERE user_hash = %s"""
TENANT_STATE_FOR_WRITE = TENANT_STATE + " FOR NO KEY UPDATE"


@dataclass(frozen=True)
class TenantState:
    """A tenant's row as one transaction saw it. `profile` changes with each of the tenant's keys and active space.

    `indexed_space`: the space in which he has a vector index of his own (`own_index.py`).
    """

    state: str
    profile: UUID
    active_space: int
    generation: int
    seal_count: int
    chunk_count: int
    indexed_space: int | None


@dataclass(frozen=True)
class Pipeline:
    """A Django connection's pipeline, and what undoes its preparations."""

    connection: BaseDatabaseWrapper
    queue: psycopg.Pipeline
    closing: ExitStack

    @property
    def may_keep_plans(self) -> bool:
        """Whether the connection may plan a statement once for any parameters.

        Not where it prepares none, and not on Citus, which finds the shard by them.
        """
        return self.connection.connection.prepare_threshold is not None and on_one_server()


def on_one_server() -> bool:
    """Whether rows are where they seem to be, and not in shards on Citus's workers."""
    return settings.MEMORY_TENANT_BINDING != "set_local"


class TenantTransaction:
    """An open transaction of one tenant. Made by `tenant_transaction()` and `joined_transaction()` only."""

    def __init__(self, connection: Connection, user_hash: str, *, write: bool, pipeline: Pipeline | None = None):
        self.connection = connection
        self.user_hash = user_hash
        self.write = write
        self._pipeline = pipeline
        self._joined = 0
        self._has_ended = False
        self._state_cursor: Cursor | None = None
        self._state: TenantState | None = None
        self._plans = _CUSTOM

    def execute(self, sql: str, params: Params = ()) -> Cursor:
        """Queue one statement and return its cursor; a fetch from it waits for the server.

        It is planned for its parameters.
        """
        self._plan(_CUSTOM)
        return self._queue(sql, params)

    def read_partition(self, sql: str, params: Params, *, keeps_plan: bool, binary: bool = False) -> Cursor:
        """As `execute`, for a SELECT, in which each partitioned table gives place to the tenant's partition of it.

        A user whom this process has not met yet costs a wait for the server. `keeps_plan`: by a plan for any
        parameters, which the connection makes when it prepares the statement; for statements whose best plan is the
        same for everybody. `binary`: the server sends what it finds as it holds it; as text a byte is two characters,
        and every number is written out and read again. For columns that psycopg reads alike either way: not of times,
        which Django knows as text alone.
        """
        sql = in_partition(sql, self._partition)
        # A caller's own transaction goes on as it came.
        keeps_plan = keeps_plan and self._pipeline is not None and self._pipeline.may_keep_plans
        self._plan(_GENERIC if keeps_plan else _CUSTOM)
        return self._queue(sql, params, binary=binary)

    @property
    def is_keeping_plans(self) -> bool:
        """Whether statements are planned for any parameters now."""
        return self._plans == _GENERIC

    @cached_property
    def _partition(self) -> int:
        return partition_of(self.user_hash, self.execute)

    def _plan(self, plans: str) -> None:
        # For the rest of the transaction: in here nothing is rolled back to a savepoint, which would undo it.
        if plans != self._plans:
            self._queue(SET_PLANS, [plans])
            self._plans = plans

    def _queue(self, sql: str, params: Params | None, *, binary: bool = False) -> Cursor:
        if self._has_ended:
            raise transaction.TransactionManagementError("the tenant transaction has ended")
        cursor = self.connection.cursor()
        if binary:
            ask_for_binary(cursor)
        cursor.execute(sql, params)
        return cursor

    def sync(self) -> None:
        """Wait until the server has carried out everything queued; raise what failed."""
        if self._pipeline is not None:
            with self._pipeline.connection.wrap_database_errors:
                self._pipeline.queue.sync()

    def end(self) -> None:
        """Commit together with what is queued, and wait for all of it: from here one can only fetch.

        Otherwise the commit travels when the block ends. Does nothing where this transaction was joined: it is for
        its owner to end. Raises what failed, or that it is to be rolled back; then nothing is written. What is raised
        in the block after it undoes nothing.
        """
        if self._pipeline is None or self._joined:
            return
        if self._pipeline.connection.needs_rollback:
            raise transaction.TransactionManagementError("the tenant transaction is to be rolled back")
        self.commit()

    def commit(self) -> None:
        """As `end()`, for the owner's own block: whoever joined has left by then."""
        if self._pipeline is None or self._has_ended:
            return
        self._has_ended = True
        with self._pipeline.connection.wrap_database_errors:
            commit = self._pipeline.connection.connection.execute("COMMIT", prepare=False)
            self._pipeline.closing.close()
        # PostgreSQL answers ROLLBACK, and no error, for a transaction that had failed.
        if commit.statusmessage != "COMMIT":
            raise transaction.TransactionManagementError("the tenant transaction had failed, and was rolled back")

    @contextmanager
    def joined(self) -> Iterator[TenantTransaction]:
        """This transaction again, for a block inside its owner's."""
        self._joined += 1
        try:
            yield self
        finally:
            self._joined -= 1

    def ask_state(self) -> None:
        """Queue the question that `state()` answers; a write locks the tenant's row with it."""
        self._state_cursor = self.execute(TENANT_STATE_FOR_WRITE if self.write else TENANT_STATE, [self.user_hash])

    def state(self, *, even_inactive: bool = False) -> TenantState | None:
        """The tenant's row as this transaction sees it; None when there is no such tenant.

        Raises KeyUnavailable while the tenant is being moved or erased, unless `even_inactive`.
        """
        if self._state_cursor is not None:
            row = self._state_cursor.fetchone()
            self._state_cursor = None
            self._state = None if row is None else TenantState(*row)
        if self._state is not None and self._state.state != "active" and not even_inactive:
            raise KeyUnavailable(retry_after_seconds=5)
        return self._state


@contextmanager
def pipelined(connection: BaseDatabaseWrapper, user_hash: str, *, write: bool) -> Iterator[TenantTransaction]:
    """A transaction in a pipeline of its own, from BEGIN on, inside the block of `transaction.atomic()`.

    Nobody is bound in it yet, and no wait is limited.
    """
    connection.ensure_connection()
    raw = connection.connection
    with connection.wrap_database_errors, ExitStack() as closing:
        if pool := getattr(raw, "_pool", None):
            raw._pool = _ClosingPool(pool)
            closing.callback(setattr, raw, "_pool", pool)
        raw.autocommit = True
        queue = closing.enter_context(raw.pipeline())
        raw.execute(BEGIN_WRITE if write else BEGIN_READ)
        yield TenantTransaction(connection, user_hash, write=write, pipeline=Pipeline(connection, queue, closing))


def limits_of_waits() -> list[str]:
    """The parameters of LIMITS by which no statement, and no lock it waits for, outlasts the request's deadline.

    Empty where there is none.
    """
    if deadline_at() == math.inf:
        return []
    limits = (remaining_seconds(WAIT_MAX_SECONDS), remaining_seconds(STATEMENT_MAX_SECONDS))
    # At least 1: PostgreSQL takes 0 for no limit.
    return [str(max(1, math.ceil(seconds * 1000))) for seconds in limits]


class _ClosingPool:
    """The pool of a connection as long as it is in a tenant's transaction: closes what is given back from in there.

    In a pipeline libpq takes a connection for idle though its transaction is open. The pool would believe it and
    lend it, tenant and all, to the next.
    """

    def __init__(self, pool: psycopg_pool.ConnectionPool):
        self._pool = pool

    def putconn(self, raw: psycopg.Connection) -> None:
        raw._pool = self._pool
        raw.pgconn.finish()
        self._pool.putconn(raw)
