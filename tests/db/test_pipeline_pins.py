"""What memory/isolation/pipeline.py rests on in psycopg_pool, psycopg and Django, and no documentation promises.

Where one of these fails after an upgrade: deploy/decisions/0011-a-tenants-transaction-in-a-pipeline.md.
"""

from __future__ import annotations

import time

import psycopg_pool
import pytest
from django.db import connections, transaction
from pgvector import HalfVector
from psycopg import _queries
from psycopg.pq import TransactionStatus

from memory.isolation.partitions import PARTITIONS, in_partition
from memory.retrieval.filters import Filters
from memory.retrieval.nearest import vector_leg
from memory.retrieval.neighbours import NEARBY
from memory.retrieval.search import _FOUND
from r1site.postgresql.base import STATEMENT_BYTES_MAX, lend_newest

pytestmark = pytest.mark.django_db(transaction=True)


class StandIn:
    """In place of a connection's pool: keeps what is given back to it."""

    name = "stand-in"

    def __init__(self):
        self.returned = []

    def putconn(self, raw) -> None:
        self.returned.append(raw)


@pytest.fixture
def lent():
    """(Django's connection, the psycopg connection that the pool has lent it, that pool)."""
    connection = connections["default"]
    connection.ensure_connection()
    raw = connection.connection
    pool = raw._pool
    yield connection, raw, pool
    connection.connection = None
    raw._pool = pool
    if not raw.closed:
        raw.rollback()
    pool.putconn(raw)


def settled(pool: psycopg_pool.ConnectionPool, *, lent: int = 0) -> dict[str, int]:
    """Its figures once it opens no more connections: one that is not there yet is counted, and not available."""
    deadline = time.monotonic() + 30
    while (stats := pool.get_stats())["pool_available"] < stats["pool_size"] - lent and time.monotonic() < deadline:
        time.sleep(0.01)
    return stats


def test_a_lent_connection_keeps_its_pool_in_an_attribute(lent):
    _, raw, pool = lent
    assert isinstance(raw._pool, psycopg_pool.ConnectionPool)
    assert settled(pool, lent=1)["pool_available"] == pool.get_stats()["pool_size"] - 1


def test_django_gives_a_connection_back_through_that_attribute(lent):
    connection, raw, _ = lent
    raw._pool = stand_in = StandIn()
    connection.close()
    assert stand_in.returned == [raw] and not raw.closed


def test_a_pool_takes_back_no_connection_that_is_anothers(lent):
    _, raw, pool = lent
    raw._pool = StandIn()
    with pytest.raises(ValueError, match="stand-in"):
        pool.putconn(raw)


def test_a_pool_replaces_a_connection_that_comes_back_finished():
    connection = connections["default"]
    connection.ensure_connection()
    raw, connection.connection = connection.connection, None
    pool, pid = raw._pool, raw.info.backend_pid
    raw.pgconn.finish()
    pool.putconn(raw)
    settled(pool)
    with pool.connection() as another:
        assert another is not raw and another.info.backend_pid != pid


def test_a_pool_lends_what_was_given_back_last():
    pool = connections["default"].pool
    with pool.connection() as first, pool.connection() as second:
        settled(pool, lent=2)
    # The first came back last.
    for _ in range(3):
        with pool.connection() as lent:
            assert lent is first and lent is not second


def test_a_pool_that_shrinks_closes_what_has_been_idle_longest():
    params = connections["default"].get_connection_params()
    with psycopg_pool.ConnectionPool(kwargs=params, min_size=1, max_size=3, open=False) as pool:
        lend_newest(pool)
        lent = [pool.getconn() for _ in range(3)]
        for connection in lent:
            pool.putconn(connection)
        for _ in range(2):  # the first may begin to look whether any goes unused
            if not any(connection.closed for connection in lent):
                pool._shrink_pool()
        assert [connection.closed for connection in lent] == [True, False, False]
        assert pool.getconn() is lent[2]
        pool.putconn(lent[2])


def test_an_atomic_block_sends_nothing_by_itself_and_its_commit_nothing_to_an_idle_session(lent):
    connection, raw, _ = lent
    with transaction.atomic(durable=True):
        assert not raw.autocommit and raw.info.transaction_status == TransactionStatus.IDLE
        raw.autocommit = True
        raw.execute("BEGIN")
        raw.execute("COMMIT")
        assert connection.in_atomic_block
    assert raw.autocommit and raw.info.transaction_status == TransactionStatus.IDLE


def test_in_a_pipeline_an_open_transaction_looks_idle(lent):
    """Why the stand-in is there; where this no longer holds, it may go."""
    _, raw, _ = lent
    raw.autocommit = True
    with raw.pipeline() as pipeline:
        raw.execute("BEGIN")
        assert raw.execute("SELECT 1").fetchone() == (1,)
        assert raw.info.transaction_status == TransactionStatus.IDLE
        pipeline.sync()
        raw.execute("ROLLBACK")


def test_psycopg_takes_a_searchs_statements_apart_once_however_long_they_are():
    """However many partitions there are: their names are in the statements."""
    filler = "-- longer than psycopg keeps".ljust(5_000)
    statements = [f"SELECT %(n)s::integer + {number} {filler}" for number in range(200)]
    with connections["default"].cursor() as cursor:
        for repeat in range(2):
            before = _queries._query2pg.cache_info().misses
            for statement in statements:
                cursor.execute(statement, {"n": 1})
            assert _queries._query2pg.cache_info().misses - before == (0 if repeat else len(statements))
    leg = vector_leg("", 1, HalfVector([1.0]), 24, Filters(), ids_alone=True)
    parts = {"nearest": f"({leg.sql}\n)", "conditions": "", "neighbours": NEARBY.format(conditions="")}
    longest = in_partition(_FOUND.format(**parts), PARTITIONS - 1)
    assert 4_096 < len(longest.encode()) < STATEMENT_BYTES_MAX
