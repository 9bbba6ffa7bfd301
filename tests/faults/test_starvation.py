"""Nobody can starve anybody: one user attacks a served worker, another one asks, a probe looks whether it lives.

Judged by answers and their order only; how long they take is measured by `make bench-starvation`.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from deploy.bench.attacker import locked_tenant, run, served_again, store_for, tenants
from deploy.bench.attacks import ATTACKS
from deploy.bench.bystander import Bystander, remember
from deploy.bench.wire import Request, ask, mint_tokens
from tests.faults.service import running

THREADS = 40
ATTACK_SECONDS, ANSWERS = 1.0, 5
# Long past every deadline of the service: who waits longer was forgotten.
PATIENCE_SECONDS = 75
# How long the bystander and the probe wait on a machine that is busy with something else too.
BYSTANDER_SECONDS = 10
WRITERS = 24
# More than the pool has connections.
READERS = 16
QUERY = Request("POST", "memory/query", {"query": "When was the heat pump serviced?"})
NOTE = Request("POST", "memory/index", {"doc_id": "note", "text": "The key lies under the mat."})


@pytest.fixture(scope="module")
def service():
    with running(
        GUNICORN_THREADS=str(THREADS),
        MEMORY_RATE_DEFAULT="off",
        MEMORY_RATE_QUERY="off",
        MEMORY_RATE_INDEX="off",
        MEMORY_RATE_CHUNKS="off",
        # A query's own time is not what is judged here, on a machine that may be busy with something else.
        MEMORY_QUERY_SECONDS=str(BYSTANDER_SECONDS - 2),
        # What an attack is cut off after; by default each of several takes ten seconds to be.
        MEMORY_LANGUAGE_SECONDS="3",
    ) as service:
        yield service


@pytest.fixture(scope="module")
def token(service):
    """(user id) -> a token."""
    return lambda user: mint_tokens(service.var, [user])[0]


@pytest.fixture(scope="module")
def bystander(service, token):
    """A user with a memory of his own; () -> one who asks, and a probe beside him."""
    remember(service.port, token("bystander"))
    return lambda: Bystander(service.port, token("bystander"), timeout_seconds=BYSTANDER_SECONDS)


@pytest.fixture(scope="module")
def prepared(service, token):
    """(attack) -> its attacker's token, once what it is about is stored."""
    done = set()

    def prepare(attack) -> str:
        if attack.attacker not in done:
            store_for(attack, service.port, token(attack.attacker))
            done.add(attack.attacker)
        return token(attack.attacker)

    return prepare


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_while_one_user_attacks_the_others_are_answered_and_he_is_told(service, bystander, prepared, attack):
    attacker, stop = prepared(attack), threading.Event()
    with bystander() as watch, ThreadPoolExecutor(1) as pool:
        attacking = pool.submit(run, attack, service.port, attacker, stop=stop, patience_seconds=PATIENCE_SECONDS)
        time.sleep(ATTACK_SECONDS)
        # However slow the machine is: these are answered while the attack goes on, or never.
        watch.wait_for(ANSWERS)
        stop.set()
        answers = attacking.result()
    assert answers
    assert watch.errors == []
    assert watch.missed_probes == []
    assert [fault for answer in answers if (fault := attack.fault(answer))] == []
    assert served_again(service.port, attacker, within_seconds=PATIENCE_SECONDS).status == 200


def test_writers_of_a_locked_tenant_are_told_to_come_back_and_no_other_tenant_notices(service, token, bystander):
    """The lock goes only once each of them has his answer."""
    writer = token("locked")
    with service.superuser() as superuser:
        known = tenants(superuser)
        assert ask(service.port, NOTE, writer, timeout_seconds=PATIENCE_SECONDS).status == 201
        [user_hash] = tenants(superuser) - known
        with bystander() as watch, ThreadPoolExecutor(WRITERS) as pool, locked_tenant(superuser, user_hash):
            answers = list(
                pool.map(lambda _: ask(service.port, NOTE, writer, timeout_seconds=PATIENCE_SECONDS), range(WRITERS))
            )
    assert {answer.code for answer in answers} <= {"overloaded", "too_many_requests_at_once"}
    assert "overloaded" in {answer.code for answer in answers}
    assert all(answer.retry_after for answer in answers)
    assert (watch.errors, watch.missed_probes) == ([], [])
    assert ask(service.port, NOTE, writer, timeout_seconds=PATIENCE_SECONDS).status == 200


def test_with_every_connection_taken_requests_are_told_to_come_back_and_the_probe_is_answered(
    service, token, superuser_waits
):
    """As many users as there are connections and more, each waiting for a table that somebody has locked."""
    readers = mint_tokens(service.var, [f"reader {number}" for number in range(READERS)])
    with superuser_waits("memory_tenants"), ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(ask, service.port, QUERY, each, timeout_seconds=PATIENCE_SECONDS) for each in readers]
        probes = []
        while not all(call.done() for call in waiting):
            probes.append(ask(service.port, Request("GET", "health/live"), None, timeout_seconds=BYSTANDER_SECONDS))
            time.sleep(0.1)
        answers = [call.result() for call in waiting]
    assert {(answer.status, answer.code) for answer in answers} == {(503, "overloaded")}
    assert all(answer.retry_after for answer in answers)
    assert {probe.status for probe in probes} == {200}
    assert [served_again(service.port, each, within_seconds=PATIENCE_SECONDS).status for each in readers] == (
        [200] * READERS
    )


@pytest.fixture
def superuser_waits(service):
    """(table) -> a block inside which nobody else reads or writes it."""

    @contextmanager
    def locked(table: str):
        with service.superuser() as superuser, superuser.transaction():
            superuser.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    return locked
