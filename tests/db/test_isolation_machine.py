"""Whatever happens in whatever order, on a pool of two connections: a user sees their own rows, nobody sees any.

Hypothesis chooses the order: writes, reads, erasures, requests that die half-way, killed backends, forgeries and
statements with nobody bound, from three threads that share two pooled connections of r1_app.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import deepcopy

import psycopg
import pytest
from django.db import DatabaseError, OperationalError, ProgrammingError, connections
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from memory import rls
from memory.embedding.spaces import default_space
from memory.errors import CrossTenantAttempt, TenantNotBound
from memory.isolation.audit import APPEND_ONLY_TABLES, TENANT_TABLES
from memory.models import Chunk, Document
from memory.rls import bind_tenant, tenant_transaction
from r1site.embedded.data_folder import SUPERUSER
from tests.db.memories import PLANT, remember
from tests.db.requests import within_a_request
from tests.db.server import connect
from tests.people import Person

ALIAS = "two"
POOL = {"min_size": 2, "max_size": 2, "timeout": 10}
APPLICATION = f"r1-isolation-machine-{os.getpid()}"
THREADS = 3
CRASHES = [RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit, BrokenPipeError]

REWRITING = ["DELETE FROM memory_erasures", "UPDATE memory_erasures SET erased_documents = 0"]

DOC_IDS = st.sampled_from(["a", "b", "c", "d"])
WORKERS = st.integers(0, THREADS - 1)


@pytest.fixture
def pool_of_two(django_db_setup, django_db_blocker):
    """The alias `two`: r1_app's own connection settings over a pool of two."""
    with django_db_blocker.unblock():
        default_space()  # looked up once a process, on the alias `default`
        database = deepcopy(connections.settings["default"])
        database["OPTIONS"] |= {"pool": POOL, "application_name": APPLICATION}
        connections.settings[ALIAS] = database
        try:
            yield
        finally:
            del connections[ALIAS]
            del connections.settings[ALIAS]


class IsolationMachine(RuleBasedStateMachine):
    """The model is a dictionary: user -> the document ids they have."""

    users = Bundle("users")

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.documents: dict[Person, set[str]] = {}
        self.workers = [ThreadPoolExecutor(1) for _ in range(THREADS)]
        self.backup = connect("r1_backup")
        self.superuser = connect(SUPERUSER)

    def teardown(self):
        for worker in self.workers:
            worker.shutdown()
        connections[ALIAS].close_pool()
        self.backup.close()
        self.superuser.close()

    def on(self, worker: int, what, *args):
        """What `what(*args)` returns or raises in one of the threads, whose connection goes back afterwards.

        Every second call is a request, with a deadline.
        """
        self.calls += 1
        is_request = self.calls % 2 == 1

        def call():
            try:
                with within_a_request(30) if is_request else nullcontext():
                    return what(*args)
            finally:
                connections[ALIAS].close()

        return self.workers[worker].submit(call).result(timeout=30)

    @initialize(target=users)
    def first_user(self):
        return self.new_user()

    @rule(target=users)
    def new_user(self):
        user = Person.new("machine")
        self.documents[user] = set()
        return user

    # -- Honest work

    @rule(user=users, doc_id=DOC_IDS, worker=WORKERS)
    def write(self, user, doc_id, worker):
        self.on(worker, lambda: remember(user, doc_id, using=ALIAS))
        self.documents[user].add(doc_id)

    @rule(one=users, other=users, doc_id=DOC_IDS)
    def two_write_at_once(self, one, other, doc_id):
        together = threading.Barrier(2)

        def write(user):
            together.wait()
            remember(user, doc_id, using=ALIAS)

        with ThreadPoolExecutor(2) as pair:
            for written in [pair.submit(self.on, worker, write, user) for worker, user in enumerate((one, other))]:
                written.result()
        self.documents[one].add(doc_id)
        self.documents[other].add(doc_id)

    @rule(user=users, worker=WORKERS)
    def read(self, user, worker):
        def everything():
            with bind_tenant(user.user_hash), tenant_transaction(using=ALIAS) as tx:
                documents = tx.execute("SELECT user_hash, doc_id FROM memory_documents").fetchall()
                chunks = tx.execute("SELECT user_hash, doc_id FROM memory_chunks").fetchall()
                return documents, chunks, Document.objects.using(ALIAS).count()

        documents, chunks, count = self.on(worker, everything)
        own = {(user.user_hash, doc_id) for doc_id in self.documents[user]}
        assert set(documents) == set(chunks) == own
        assert len(documents) == len(chunks) == count == len(own)

    @rule(user=users, worker=WORKERS)
    def erase(self, user, worker):
        def erase():
            with tenant_transaction(user.user_hash, write=True, using=ALIAS) as tx:
                for table in set(TENANT_TABLES) - set(APPEND_ONLY_TABLES):
                    tx.execute(f"DELETE FROM {table}")  # no condition: the policy is the condition

        self.on(worker, erase)
        self.documents[user].clear()

    @rule(user=users, worker=WORKERS, statement=st.sampled_from(REWRITING))
    def rewrite_the_ledger(self, user, worker, statement):
        def rewrite():
            with tenant_transaction(user.user_hash, write=True, using=ALIAS) as tx:
                tx.execute(statement)

        with pytest.raises(ProgrammingError, match="permission denied for table memory_erasures"):
            self.on(worker, rewrite)

    # -- Accidents

    @rule(user=users, worker=WORKERS, crash=st.sampled_from(CRASHES), touched=st.booleans(), write=st.booleans())
    def die_after_the_binding(self, user, worker, crash, touched, write):
        def die():
            with bind_tenant(user.user_hash), tenant_transaction(write=write, using=ALIAS) as tx:
                if touched:
                    tx.execute("DELETE FROM memory_documents" if write else "SELECT * FROM memory_documents")
                raise crash

        with pytest.raises(crash):
            self.on(worker, die)

    @rule(user=users, worker=WORKERS)
    def leave_a_stream_half_read(self, user, worker):
        def leave():
            def stream():
                with bind_tenant(user.user_hash), tenant_transaction(using=ALIAS) as tx:
                    yield from tx.execute("SELECT generate_series(1, 100)")

            rows = stream()
            assert next(rows) == (1,)
            rows.close()

        self.on(worker, leave)

    @rule(user=users, worker=WORKERS)
    def lose_the_backend_after_the_binding(self, user, worker):
        def lose():
            with tenant_transaction(user.user_hash, write=True, using=ALIAS) as tx:
                tx.execute("DELETE FROM memory_documents")
                [pid] = tx.execute("SELECT pg_backend_pid()").fetchone()
                assert self.superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)
                tx.execute("SELECT * FROM memory_documents").fetchall()

        with pytest.raises(OperationalError):
            self.on(worker, lose)

    # -- Malice

    @rule(worker=WORKERS)
    def ask_as_nobody(self, worker):
        def ask():
            with connections[ALIAS].cursor() as cursor:
                cursor.execute("SELECT * FROM memory_documents")
                return cursor.fetchall()

        for anonymous in (ask, Chunk.objects.using(ALIAS).count, Document.objects.using(ALIAS).all().delete):
            with pytest.raises(ProgrammingError, match="no tenant is bound"):
                self.on(worker, anonymous)
        with pytest.raises(TenantNotBound):
            self.on(worker, tenant_transaction(using=ALIAS).__enter__)

    @rule(user=users, other=users, worker=WORKERS)
    def name_another_user(self, user, other, worker):
        def forge():
            with tenant_transaction(user.user_hash, write=True, using=ALIAS) as tx:
                seen = tx.execute("SELECT user_hash FROM memory_chunks WHERE user_hash = %s", [other.user_hash])
                gone = tx.execute("DELETE FROM memory_documents WHERE user_hash = %s", [other.user_hash])
                return seen.fetchall(), (tx.sync(), gone.rowcount)[1]

        if user != other:
            assert self.on(worker, forge) == ([], 0)

    @rule(user=users, other=users, worker=WORKERS, nested_in=st.sampled_from(["binding", "transaction"]))
    def slip_into_another_users_request(self, user, other, worker, nested_in):
        def nest():
            outer = bind_tenant(user.user_hash)
            if nested_in == "transaction":
                outer = tenant_transaction(user.user_hash, using=ALIAS)
            with outer, tenant_transaction(other.user_hash, using=ALIAS) as tx:
                return tx.execute("SELECT * FROM memory_documents").fetchall()

        if user != other:
            with pytest.raises(CrossTenantAttempt):
                self.on(worker, nest)

    @rule(user=users, other=users, worker=WORKERS)
    def write_for_another_user(self, user, other, worker):
        def plant():
            with tenant_transaction(user.user_hash, write=True, using=ALIAS) as tx:
                tx.execute(PLANT, [other.user_hash])

        if user != other:
            with pytest.raises(DatabaseError, match="violates row-level security policy"):
                self.on(worker, plant)

    # -- Always

    @invariant()
    def everybody_has_exactly_their_own_rows(self):
        """As r1_backup, which sees all: what one user may not see is there, and is what its owner left."""
        hashes = [user.user_hash for user in self.documents]
        for table in ("memory_documents", "memory_chunks"):
            stored = self.backup.execute(
                f"SELECT user_hash, doc_id FROM {table} WHERE user_hash = ANY(%s)", [hashes]
            ).fetchall()
            expected = [(user.user_hash, doc_id) for user, ids in self.documents.items() for doc_id in ids]
            assert sorted(stored) == sorted(expected)

    @invariant()
    def idle_connections_remember_nobody(self):
        pool = connections[ALIAS].pool
        pool.open()
        with pool.connection() as one, pool.connection() as two:
            for connection in (one, two):
                assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
                assert connection.execute("SELECT current_setting('app.user_hash', true)").fetchone()[0] in (None, "")
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="no tenant is bound"):
                    connection.execute("SELECT user_hash FROM memory_documents")

    @invariant()
    def no_transaction_stays_open(self):
        [(left_open,)] = self.superuser.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND state LIKE 'idle in transaction%%'",
            [APPLICATION],
        )
        assert left_open == 0


BOUNDED = settings(
    max_examples=25, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def test_whatever_happens_in_whatever_order_users_stay_apart(pool_of_two):
    run_state_machine_as_test(IsolationMachine, settings=BOUNDED)


def test_the_machine_notices_a_setting_that_outlives_its_transaction(pool_of_two, monkeypatch):
    monkeypatch.setattr(rls, "SET_CONTEXT", "SELECT set_config('app.user_hash', %s, false)")
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(
            IsolationMachine, settings=settings(BOUNDED, phases=[Phase.generate], report_multiple_bugs=False)
        )
