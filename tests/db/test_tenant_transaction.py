"""tenant_transaction() and its kin: one door, one tenant, one short transaction, and nothing left behind."""

from __future__ import annotations

import contextvars
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psycopg
import pytest
from django.db import DatabaseError, InternalError, OperationalError, ProgrammingError, connections, transaction

from memory import metrics
from memory.errors import CrossTenantAttempt, TenantNotBound, UnsafeDatabase
from memory.isolation import audit as rls_audit
from memory.models import Chunk, DataKey, Document, Tenant
from memory.rls import bind_tenant, bind_transaction, bound_tenant, joined_transaction, tenant_transaction
from r1site.embedded.data_folder import SUPERUSER
from r1site.settings.databases import PREPARED_AFTER_USES
from tests.db.memories import PLANT, remember
from tests.db.requests import within_a_request
from tests.db.server import bind, connect

pytestmark = pytest.mark.django_db(transaction=True)

COUNT = "SELECT count(*) FROM memory_documents"
MINE = "SELECT doc_id FROM memory_documents WHERE user_hash = %s ORDER BY doc_id"
BACKEND = "SELECT pg_backend_pid()"
SETTING = "SELECT current_setting('app.user_hash', true)"
TIMEOUTS = "SELECT name, setting::integer FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout')"


class ClientLeft(Exception):
    """Stands for whatever ends a request in the middle."""


ENDINGS = [ClientLeft, SystemExit, KeyboardInterrupt, GeneratorExit, BrokenPipeError, MemoryError]


def documents_of(person) -> list[str]:
    with bind_tenant(person.user_hash), tenant_transaction() as tx:
        return [doc_id for (doc_id,) in tx.execute(MINE, [tx.user_hash]).fetchall()]


def idle_in_pool() -> tuple[int, int]:
    """(connections the pool has, connections lying in it unused)."""
    stats = connections["default"].pool.get_stats()
    return stats["pool_size"], stats["pool_available"]


def settled_pool() -> tuple[int, int]:
    """As idle_in_pool(), once the pool has replaced the connections that broke; it does so by itself."""
    deadline = time.monotonic() + 10
    while len(set(idle_in_pool())) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return idle_in_pool()


def refused() -> float:
    return metrics.rls_denied._value.get()


def cross_tenant_attempts() -> float:
    return metrics.cross_tenant_attempts._value.get()


@pytest.fixture
def counted():
    """How many refusals and cross-tenant attempts this test added: a function of no arguments."""
    before = refused(), cross_tenant_attempts()
    return lambda: (refused() - before[0], cross_tenant_attempts() - before[1])


@pytest.fixture(autouse=True)
def every_connection_is_back_in_the_pool():
    """After each test too: nothing holds a connection, and none of them remembers a tenant."""
    yield
    connections["default"].close()
    size, available = settled_pool()
    assert size == available
    for _ in range(size):
        with connections["default"].cursor() as cursor:
            cursor.execute(SETTING)
            assert cursor.fetchone()[0] in (None, "")
        connections["default"].close()


# -- Whose transaction it is


def test_inside_the_transaction_one_sees_ones_own_rows_and_nothing_of_others(alice, bob):
    remember(alice, "a", "b")
    remember(bob, "z")
    with bind_tenant(alice.user_hash), tenant_transaction() as tx:
        assert tx.execute("SELECT user_hash, doc_id FROM memory_documents ORDER BY doc_id").fetchall() == [
            (alice.user_hash, "a"),
            (alice.user_hash, "b"),
        ]
        assert tx.execute(MINE, [bob.user_hash]).fetchall() == []
    assert documents_of(bob) == ["z"]


def test_the_orm_inside_the_transaction_is_under_the_same_rule(alice, bob):
    remember(alice, "a")
    remember(bob, "y", "z")
    with tenant_transaction(alice.user_hash):
        assert [model.objects.count() for model in (Chunk, Document, Tenant, DataKey)] == [1, 1, 1, 1]
        assert not Document.objects.filter(user_hash=bob.user_hash).exists()
    with tenant_transaction(bob.user_hash):
        assert Document.objects.count() == 2


def test_with_nobody_bound_there_is_no_transaction_and_no_sql(alice, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(TenantNotBound), tenant_transaction():
        pytest.fail("the block must not run")
    with pytest.raises(TenantNotBound):
        bound_tenant()
    assert not connections["default"].in_atomic_block


@pytest.mark.parametrize("name", ["alice", "A" * 64, "0" * 63, "0" * 64 + "\n", " " + "0" * 63, "é" * 64])
def test_a_tenant_is_named_by_64_lower_case_hex_digits_and_by_nothing_else(
    django_assert_num_queries, transactional_db, name
):
    for enter in (bind_tenant, tenant_transaction):
        with django_assert_num_queries(0), pytest.raises(TenantNotBound, match="64 hex digits"), enter(name):
            pytest.fail("the block must not run")


@pytest.mark.parametrize("model", [Chunk, Document, Tenant, DataKey])
def test_an_orm_statement_with_nobody_bound_is_an_error_and_counted(alice, counted, model):
    remember(alice, "a")
    for statement in (model.objects.count, model.objects.first, model.objects.all().delete):
        with pytest.raises(ProgrammingError, match="no tenant is bound"):
            statement()
    assert counted() == (3, 0)
    assert documents_of(alice) == ["a"]


def test_an_orm_statement_just_after_another_requests_transaction_is_an_error(alice, counted):
    """The same pooled connection, whose setting is now empty and not absent."""
    remember(alice, "a")
    with tenant_transaction(alice.user_hash) as tx:
        used = tx.execute(BACKEND).fetchone()
        assert tx.execute(COUNT).fetchone() == (1,)
    size, _ = settled_pool()
    asked = set()
    for _ in range(size):
        with connections["default"].cursor() as cursor:
            cursor.execute(BACKEND)
            asked.add(cursor.fetchone())
        with pytest.raises(ProgrammingError, match="no tenant is bound"):
            Document.objects.count()
        connections["default"].close()
    assert used in asked
    assert counted() == (size, 0)


def test_a_row_written_for_somebody_else_is_refused_and_counted_as_an_attempt(alice, bob, counted):
    remember(alice, "a")
    remember(bob, "z")
    with pytest.raises(ProgrammingError, match="violates row-level security policy"):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            tx.execute("UPDATE memory_documents SET user_hash = %s WHERE user_hash = %s", [bob.user_hash, tx.user_hash])
    assert counted() == (1, 1)
    assert (documents_of(alice), documents_of(bob)) == (["a"], ["z"])


@pytest.mark.parametrize(
    "statements_after_it",
    [0, 500],
)
def test_a_refusal_among_pipelined_statements_surfaces_as_itself_and_is_counted_once(
    alice, bob, counted, statements_after_it
):
    remember(alice, "a")
    with pytest.raises(ProgrammingError, match="violates row-level security policy"):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            tx.execute("UPDATE memory_documents SET user_hash = %s", [bob.user_hash])
            later = [tx.execute(COUNT) for _ in range(statements_after_it)]
            for cursor in reversed(later):
                cursor.fetchone()
    assert counted() == (1, 1)
    assert documents_of(alice) == ["a"]


def test_an_ordinary_error_is_counted_as_neither(alice, counted):
    with pytest.raises(DatabaseError), tenant_transaction(alice.user_hash) as tx:
        tx.execute("SELECT 1 / 0")
    assert counted() == (0, 0)


def test_a_refusal_on_a_psycopg_connection_is_counted_too(alice, bob, counted):
    with connect("r1_app") as raw, pytest.raises(psycopg.errors.InsufficientPrivilege):
        with joined_transaction(raw, alice.user_hash) as tx:
            tx.execute(PLANT, [bob.user_hash])
    assert counted() == (1, 1)


def test_a_callers_own_transaction_cannot_be_used_for_another_user_than_the_bound_one(alice, bob):
    with bind_tenant(alice.user_hash), transaction.atomic():
        with pytest.raises(CrossTenantAttempt), joined_transaction(connections["default"], bob.user_hash):
            pytest.fail("the block must not run")


def test_a_callers_own_transaction_is_left_bound_to_nobody(alice):
    with pytest.raises(DatabaseError, match="no tenant is bound"), transaction.atomic():
        with joined_transaction(connections["default"], alice.user_hash) as tx:
            assert tx.state() is None
        Document.objects.count()


def test_an_empty_name_is_refused_and_not_taken_for_no_name(alice):
    with pytest.raises(TenantNotBound), bind_tenant(alice.user_hash), tenant_transaction(""):
        pytest.fail("the block must not run")


def test_a_database_found_unsafe_does_not_keep_the_connection_that_asked(alice, monkeypatch):
    monkeypatch.setattr(rls_audit, "_verified_databases", set())
    monkeypatch.setattr(rls_audit, "APP_ROLE", "somebody_else")
    with pytest.raises(UnsafeDatabase), tenant_transaction(alice.user_hash):
        pytest.fail("the block must not run")
    size, available = idle_in_pool()
    assert available == size


# -- Nesting


def test_nesting_for_the_same_tenant_joins_the_open_transaction(alice):
    remember(alice, "a")
    with tenant_transaction(alice.user_hash, write=True) as outer:
        outer.execute("DELETE FROM memory_documents WHERE user_hash = %s", [outer.user_hash])
        with bind_tenant(alice.user_hash), tenant_transaction() as inner:
            assert inner is outer
            assert inner.execute(COUNT).fetchone() == (0,)
        assert outer.execute(COUNT).fetchone() == (0,)
    assert documents_of(alice) == []


def test_a_write_does_not_join_a_read(alice):
    remember(alice, "a")
    with pytest.raises(transaction.TransactionManagementError, match="cannot join a read-only"):
        with tenant_transaction(alice.user_hash), tenant_transaction(alice.user_hash, write=True):
            pytest.fail("the block must not run")
    assert documents_of(alice) == ["a"]


def test_nesting_for_another_tenant_is_stopped_and_counted(alice, bob, counted):
    with pytest.raises(CrossTenantAttempt), tenant_transaction(alice.user_hash):
        with tenant_transaction(bob.user_hash):
            pytest.fail("the block must not run")
    assert counted() == (0, 1)


def test_binding_another_tenant_is_stopped_and_counted_and_the_first_stays_bound(alice, bob, counted):
    with bind_tenant(alice.user_hash):
        for enter in (bind_tenant, tenant_transaction):
            with pytest.raises(CrossTenantAttempt), enter(bob.user_hash):
                pytest.fail("the block must not run")
            assert bound_tenant() == alice.user_hash
    assert counted() == (0, 2)
    with bind_tenant(bob.user_hash):
        assert bound_tenant() == bob.user_hash


def test_the_outer_transaction_survives_a_nested_attempt_that_was_caught(alice, bob):
    remember(alice, "a")
    with tenant_transaction(alice.user_hash) as tx:
        with pytest.raises(CrossTenantAttempt), tenant_transaction(bob.user_hash):
            pass
        assert tx.execute(SETTING).fetchone() == (alice.user_hash,)
        assert tx.execute(COUNT).fetchone() == (1,)


def test_it_is_the_outermost_transaction_or_none(alice):
    """Inside somebody else's atomic block its commit would be a promise it cannot keep."""
    with transaction.atomic():
        with pytest.raises(RuntimeError, match="durable"), tenant_transaction(alice.user_hash):
            pytest.fail("the block must not run")
        with connections["default"].cursor() as cursor:
            cursor.execute(SETTING)
            assert cursor.fetchone()[0] in (None, "")


# -- Reads and writes


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM memory_documents",
        "UPDATE memory_documents SET source = 'x'",
        PLANT.replace("%s", "repeat('0', 64)"),
        "SELECT user_hash FROM memory_documents FOR UPDATE",
    ],
)
def test_a_read_cannot_write(alice, statement):
    remember(alice, "a")
    with pytest.raises(InternalError, match="read-only transaction"), tenant_transaction(alice.user_hash) as tx:
        tx.execute(statement)
    assert documents_of(alice) == ["a"]


def test_a_read_cannot_be_turned_into_a_write_on_the_way(alice):
    remember(alice, "a")
    with pytest.raises(InternalError, match="read-write mode must be set before any query"):
        with tenant_transaction(alice.user_hash) as tx:
            tx.execute("SET TRANSACTION READ WRITE")
    assert documents_of(alice) == ["a"]


def test_all_statements_of_a_read_see_one_snapshot(alice):
    remember(alice, "a")
    with tenant_transaction(alice.user_hash) as tx:
        before = tx.execute(MINE, [tx.user_hash]).fetchall()
        with connect("r1_app") as elsewhere, elsewhere.transaction():
            bind(elsewhere, alice.user_hash)
            assert elsewhere.execute("DELETE FROM memory_documents").rowcount == 1
        assert tx.execute(MINE, [tx.user_hash]).fetchall() == before == [("a",)]
    assert documents_of(alice) == []


def test_a_write_after_a_read_on_the_same_connection_may_write(alice):
    remember(alice, "a")
    assert documents_of(alice) == ["a"]
    with tenant_transaction(alice.user_hash, write=True) as tx:
        isolation = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
        assert tx.execute(isolation).fetchone() == ("read committed", "off")
        tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
    assert documents_of(alice) == []
    with connections["default"].cursor() as cursor:
        cursor.execute(isolation)
        assert cursor.fetchone() == ("read committed", "off")


def test_a_write_holds_the_tenant_against_an_erasure_until_it_commits(alice):
    remember(alice, "a")
    with tenant_transaction(alice.user_hash, write=True) as tx:
        assert tx.state().state == "active"
        with connect("r1_app") as eraser, pytest.raises(psycopg.errors.LockNotAvailable), eraser.transaction():
            bind(eraser, alice.user_hash)
            eraser.execute("SET LOCAL lock_timeout = '50ms'")
            eraser.execute("DELETE FROM memory_tenants WHERE user_hash = %s", [alice.user_hash])
    assert documents_of(alice) == ["a"]


@pytest.mark.parametrize("end", [lambda tx: None, lambda tx: tx.end()], ids=["of the block", "by itself"])
def test_an_error_that_only_the_end_notices_rolls_everything_back(alice, end):
    """Statements are pipelined: nobody fetched from the one that failed."""
    remember(alice, "a")
    with pytest.raises(DatabaseError), tenant_transaction(alice.user_hash, write=True) as tx:
        tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
        tx.execute("SELECT 1 / 0")
        end(tx)
    assert documents_of(alice) == ["a"]


# -- How it ends


def session(pid: int) -> tuple:
    """What the server says that a backend is doing: (state, whether it is in a transaction)."""
    with connect(SUPERUSER) as superuser:
        found = "SELECT state, xact_start IS NOT NULL FROM pg_stat_activity WHERE pid = %s"
        return superuser.execute(found, [pid]).fetchone()


def test_once_ended_the_server_has_committed_and_what_was_asked_can_still_be_fetched(alice):
    remember(alice, "a", "b")
    with tenant_transaction(alice.user_hash, write=True) as tx:
        pid = tx.execute(BACKEND)
        deleted = tx.execute("DELETE FROM memory_documents WHERE doc_id = 'a' RETURNING doc_id")
        left = tx.execute(MINE, [tx.user_hash])
        tx.end()
        assert documents_seen_from_elsewhere(alice) == ["b"]
        assert session(pid.fetchone()[0]) == ("idle", False)
        assert (deleted.fetchall(), left.fetchall(), tx.state().state) == ([("a",)], [("b",)], "active")


def documents_seen_from_elsewhere(person) -> list[str]:
    with connect("r1_app") as elsewhere, elsewhere.transaction():
        bind(elsewhere, person.user_hash)
        return [doc_id for (doc_id,) in elsewhere.execute(MINE, [person.user_hash]).fetchall()]


@pytest.mark.parametrize("write", [False, True])
def test_between_begin_and_commit_no_session_is_idle_in_transaction(alice, write):
    """As pg_stat_activity has it; only a `sync()` in the middle makes it so."""
    with tenant_transaction(alice.user_hash, write=write) as tx:
        [pid] = tx.execute(BACKEND).fetchone()
        assert session(pid) == ("active", True)
        tx.execute(COUNT).fetchone()
        assert session(pid) == ("active", True)
        tx.sync()
        assert session(pid) == ("idle in transaction", True)
    assert session(pid) == ("idle", False)


def test_nothing_can_be_asked_of_a_transaction_that_has_ended(alice):
    remember(alice, "a")
    with pytest.raises(transaction.TransactionManagementError, match="has ended"):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            tx.end()
            tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
    with pytest.raises(ProgrammingError, match="no tenant is bound"), tenant_transaction(alice.user_hash) as tx:
        tx.end()
        Document.objects.count()
    assert documents_of(alice) == ["a"]


@pytest.mark.parametrize("fail", [lambda tx: tx.sync(), lambda tx: tx.execute(COUNT).fetchone()])
def test_who_swallows_an_error_is_not_told_that_it_was_committed(alice, fail):
    remember(alice, "a")
    with pytest.raises((DatabaseError, transaction.TransactionManagementError)):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
            tx.execute("SELECT 1 / 0")
            with suppress(DatabaseError):
                fail(tx)
    assert documents_of(alice) == ["a"]


def test_who_ends_what_is_to_be_rolled_back_is_told_so(alice):
    remember(alice, "a")
    with pytest.raises(transaction.TransactionManagementError, match="is to be rolled back"):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
            transaction.set_rollback(True)
            tx.end()
    assert documents_of(alice) == ["a"]


def test_a_joined_block_left_open_does_not_keep_the_owner_from_learning_that_nothing_was_written(alice):
    remember(alice, "a")

    def joined():
        with tenant_transaction(alice.user_hash):
            yield

    suspended = joined()
    with pytest.raises(transaction.TransactionManagementError, match="was rolled back"):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            next(suspended)
            tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
            tx.execute("SELECT 1 / 0")
            with suppress(DatabaseError):
                tx.sync()
    suspended.close()
    assert documents_of(alice) == ["a"]


def test_a_transaction_that_was_joined_is_for_its_owner_to_end(alice):
    remember(alice, "a", "b")
    with pytest.raises(ClientLeft), tenant_transaction(alice.user_hash, write=True) as outer:
        with tenant_transaction(alice.user_hash) as inner:
            mine = inner.execute("DELETE FROM memory_documents WHERE doc_id = 'a' RETURNING doc_id")
            inner.end()
            assert mine.fetchall() == [("a",)]
        outer.execute("DELETE FROM memory_documents WHERE doc_id = 'b'")
        raise ClientLeft
    assert documents_of(alice) == ["a", "b"]


# -- What is left behind


def test_the_connection_is_back_in_the_pool_when_the_block_ends(alice):
    remember(alice, "a")
    with tenant_transaction(alice.user_hash):
        size, available = idle_in_pool()
        assert available == size - 1
    assert connections["default"].connection is None
    size, available = idle_in_pool()
    assert available == size


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("write", [False, True])
def test_whatever_ends_the_block_the_connection_goes_back_clean_and_nothing_is_written(alice, bob, ending, write):
    remember(alice, "a")
    remember(bob, "z")
    with pytest.raises(ending), tenant_transaction(alice.user_hash, write=write) as tx:
        if write:
            tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
        raise ending
    size, available = idle_in_pool()
    assert available == size
    with connections["default"].cursor() as cursor:
        cursor.execute(SETTING)
        assert cursor.fetchone()[0] in (None, "")
    with pytest.raises(ProgrammingError, match="no tenant is bound"):
        Document.objects.count()
    connections["default"].close()
    assert (documents_of(bob), documents_of(alice)) == (["z"], ["a"])


def test_a_stream_that_is_closed_inside_the_block_gives_its_connection_back(alice):
    remember(alice, "a", "b")

    def stream():
        with bind_tenant(alice.user_hash), tenant_transaction() as tx:
            yield from tx.execute(MINE, [tx.user_hash])

    rows = stream()
    assert next(rows) == ("a",)
    rows.close()
    size, available = idle_in_pool()
    assert available == size
    with pytest.raises(TenantNotBound):
        bound_tenant()


def test_a_connection_that_is_closed_inside_the_block_is_not_lent_to_the_next_with_its_tenant(alice):
    """Django closes it at the end of any request, also of one that was made from in there."""
    remember(alice, "a")
    with pytest.raises(DatabaseError), tenant_transaction(alice.user_hash, write=True) as tx:
        assert tx.execute("DELETE FROM memory_documents WHERE doc_id = 'a' RETURNING doc_id").fetchall() == [("a",)]
        connections["default"].close()
    size, available = settled_pool()
    assert size == available
    for _ in range(2 * size):
        with pytest.raises(ProgrammingError, match="no tenant is bound"):
            Document.objects.count()
        connections["default"].close()
    assert documents_of(alice) == ["a"]


def test_a_backend_killed_inside_the_block_is_an_error_once_and_then_all_is_well(alice):
    remember(alice, "a")
    with pytest.raises(OperationalError), tenant_transaction(alice.user_hash, write=True) as tx:
        tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
        [pid] = tx.execute(BACKEND).fetchone()
        with connect(SUPERUSER) as superuser:
            assert superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)
        tx.execute(COUNT).fetchone()
    assert documents_of(alice) == ["a"]


def test_connections_killed_while_they_lay_in_the_pool_are_noticed_before_they_are_used(alice):
    remember(alice, "a")
    with tenant_transaction(alice.user_hash) as tx:
        [pid] = tx.execute(BACKEND).fetchone()
    with connect(SUPERUSER) as superuser:
        assert superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)
    assert documents_of(alice) == ["a"]


def test_all_connections_killed_at_once_cost_no_request(alice):
    """As when the server starts anew: none that lies in the pool is of use, and none is lent."""
    remember(alice, "a")
    with connect(SUPERUSER) as superuser:
        ended = superuser.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'r1_app'"
        ).fetchall()
    assert ended and set(ended) == {(True,)}
    for _ in range(len(ended) + 1):
        assert documents_of(alice) == ["a"]


def test_a_thousand_requests_that_die_between_the_binding_and_the_query_leave_the_next_one_right(alice, bob):
    remember(alice, "a")
    remember(bob, "y", "z")
    for round_number in range(1000):
        ending = ENDINGS[round_number % len(ENDINGS)]
        write = bool(round_number // len(ENDINGS) % 2)
        with pytest.raises(ending), bind_tenant(alice.user_hash), tenant_transaction(write=write) as tx:
            assert tx.user_hash == alice.user_hash
            raise ending
        assert documents_of(bob) == ["y", "z"]
        if round_number % 50 == 0:
            with pytest.raises(ProgrammingError, match="no tenant is bound"):
                Document.objects.count()
            connections["default"].close()
    assert documents_of(alice) == ["a"]


# -- Threads


def test_a_new_thread_is_nobody(alice):
    with bind_tenant(alice.user_hash), ThreadPoolExecutor(1) as executor:
        with pytest.raises(TenantNotBound):
            executor.submit(bound_tenant).result()


def test_users_in_many_threads_at_once_each_see_their_own(alice, bob):
    remember(alice, "a")
    remember(bob, "y", "z")
    expected = {alice: ["a"], bob: ["y", "z"]}
    start = threading.Barrier(8)

    def ask_often(person) -> list:
        start.wait()
        try:
            return [documents_of(person) for _ in range(25)]
        finally:
            connections["default"].close()

    with ThreadPoolExecutor(8) as executor:
        answers = [(person, executor.submit(ask_often, person)) for person in [alice, bob] * 4]
        for person, answer in answers:
            assert answer.result() == [expected[person]] * 25


def test_a_context_copied_into_another_thread_cannot_use_the_open_transaction(alice):
    remember(alice, "a")

    def join() -> None:
        with tenant_transaction() as tx:
            tx.execute(COUNT)

    with bind_tenant(alice.user_hash), tenant_transaction() as tx:
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as executor, pytest.raises(DatabaseError, match="created in a thread"):
            executor.submit(context.run, join).result()
        assert tx.execute(COUNT).fetchone() == (1,)


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("binding", ["set_config", "set_local"])
def test_nothing_in_a_request_waits_past_its_deadline_and_no_limit_outlives_it(alice, settings, binding, write):
    settings.MEMORY_TENANT_BINDING = binding

    def limits(execute) -> dict[str, int]:
        return dict(execute(TIMEOUTS).fetchall())

    with tenant_transaction(alice.user_hash) as tx:
        of_the_role = limits(tx.execute)
    with within_a_request(0.9), tenant_transaction(alice.user_hash, write=write, keeps_connection=True) as tx:
        assert tx.execute(SETTING).fetchone() == (alice.user_hash,)
        backend, in_the_request = tx.execute(BACKEND).fetchone(), limits(tx.execute)
    assert set(in_the_request) == {"lock_timeout", "statement_timeout"} == set(of_the_role)
    assert all(0 < milliseconds <= 900 < of_the_role[name] for name, milliseconds in in_the_request.items())
    with connections["default"].cursor() as cursor:
        assert cursor.execute(BACKEND).fetchone() == backend
        assert cursor.execute(SETTING).fetchone() == ("",)
        assert limits(cursor.execute) == of_the_role


# -- Callers that bring their own connection


def test_the_setting_is_refused_outside_a_transaction(alice):
    with pytest.raises(TenantNotBound, match="open a transaction first"):
        bind_transaction(connections["default"], alice.user_hash)
    with connect("r1_app") as raw, pytest.raises(TenantNotBound, match="open a transaction first"):
        bind_transaction(raw, alice.user_hash)


def test_joining_on_a_django_connection_outside_any_transaction_opens_and_commits_one(alice):
    remember(alice, "a", "b")
    with joined_transaction(connections["default"], alice.user_hash) as tx:
        tx.execute("DELETE FROM memory_documents WHERE doc_id = 'a'")
    assert documents_of(alice) == ["b"]


def test_joining_inside_the_tenants_own_transaction_commits_with_it_or_not_at_all(alice):
    remember(alice, "a")
    with pytest.raises(ClientLeft), tenant_transaction(alice.user_hash, write=True) as outer:
        with joined_transaction(connections["default"], alice.user_hash) as tx:
            assert tx is outer
            tx.execute("DELETE FROM memory_documents")
        raise ClientLeft
    assert documents_of(alice) == ["a"]


def test_joining_a_plain_atomic_block_commits_with_it_or_not_at_all(alice):
    remember(alice, "a")
    with pytest.raises(ClientLeft), transaction.atomic():
        with joined_transaction(connections["default"], alice.user_hash) as tx:
            assert tx.execute(COUNT).fetchone() == (1,)
            tx.execute("DELETE FROM memory_documents")
        raise ClientLeft
    assert documents_of(alice) == ["a"]


def test_joining_another_tenants_transaction_is_stopped_and_counted(alice, bob, counted):
    remember(alice, "a")
    django = connections["default"]
    with pytest.raises(CrossTenantAttempt), tenant_transaction(alice.user_hash, write=True):
        with joined_transaction(django, bob.user_hash):
            pytest.fail("the block must not run")
    with pytest.raises(CrossTenantAttempt), transaction.atomic():
        with joined_transaction(django, alice.user_hash), joined_transaction(django, bob.user_hash):
            pytest.fail("the block must not run")
    assert counted() == (0, 2)


def test_joining_on_a_psycopg_connection_works_alike(alice, bob, counted):
    remember(alice, "a", "b")
    with connect("r1_app") as raw:
        with joined_transaction(raw, alice.user_hash) as tx:
            tx.execute("DELETE FROM memory_documents WHERE doc_id = 'a'")
        assert raw.execute(SETTING).fetchone() == ("",)
        with pytest.raises(ClientLeft), joined_transaction(raw, alice.user_hash) as tx:
            tx.execute("DELETE FROM memory_documents")
            raise ClientLeft
        with raw.transaction(), joined_transaction(raw, alice.user_hash) as tx:
            assert tx.execute(MINE, [alice.user_hash]).fetchall() == [("b",)]
        with pytest.raises(CrossTenantAttempt), raw.transaction():
            with joined_transaction(raw, alice.user_hash), joined_transaction(raw, bob.user_hash):
                pytest.fail("the block must not run")
    assert counted() == (0, 1)
    assert documents_of(alice) == ["b"]


def test_what_a_connection_sends_often_it_prepares_unless_the_setting_says_no(alice):
    def prepared() -> int:
        with tenant_transaction(alice.user_hash) as tx:
            for _ in range(PREPARED_AFTER_USES + 2):
                tx.execute("SELECT 'often', %s", [alice.user_hash]).fetchall()
            statements = tx.execute("SELECT statement FROM pg_prepared_statements").fetchall()
        return sum("'often'" in statement for (statement,) in statements)

    assert prepared() == 1
    default = connections["default"]
    default.close_pool()
    options = default.settings_dict["OPTIONS"]
    threshold = options.pop("prepare_threshold")
    try:
        assert prepared() == 0
    finally:
        options["prepare_threshold"] = threshold
        default.close_pool()
    assert prepared() == 1
