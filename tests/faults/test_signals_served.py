"""What two real workers say of themselves: right together, unmoved by clients, and switched within a second."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter

import pytest

from tests.faults.service import running

# Until a flag is on all workers, half a second of it for a machine that is busy with something else.
FLAG_SECONDS = 1.5
# Between two queries of one who asks.
PAUSE_SECONDS = 0.05
QUERY = json.dumps({"query": "When was the heat pump serviced?"})


@pytest.fixture(scope="module")
def service():
    with running(WEB_CONCURRENCY="2", MEMORY_RATE_DEFAULT="off", MEMORY_RATE_QUERY="off") as service:
        yield service


@pytest.fixture(scope="module")
def token(service):
    token = service.token("carol")
    status, _ = service.call(
        "POST", "/api/v1/memory/index", token, {"doc_id": "note", "text": "The heat pump was serviced in March."}
    )
    assert status == 201
    return token


def ask(service, token: str, path: str = "memory/query", body: str = QUERY) -> tuple[int, dict]:
    """Over a connection of its own, so that either worker may answer."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", f"/api/v1/{path}", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def scraped(service) -> Counter:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", "/metrics/memory")
    page = connection.getresponse().read().decode()
    connection.close()
    return Counter({name: float(value) for name, value in re.findall(r"^([a-z].*) ([-+.e\d]+)$", page, re.MULTILINE)})


def outcomes(service) -> Counter:
    found: Counter = Counter()
    for name, value in scraped(service).items():
        if name.startswith("memory_requests_total{"):
            found[re.search(r'outcome="(\w+)"', name)[1]] += value
    return found


def test_what_two_workers_answered_is_counted_together_whichever_is_asked(service, token):
    before = scraped(service)
    for _ in range(20):
        assert ask(service, token)[0] == 200
    for _ in range(4):
        after = scraped(service)
        for name in (
            'memory_requests_total{operation="query",outcome="ok",variant="r1"}',
            'memory_query_latency_ms_count{stage="total",variant="r1"}',
        ):
            assert after[name] - before[name] == 20
        # Each has a pool of eight of its own.
        assert after["memory_db_pool_max"] == 16
        assert after["memory_canary_percent"] == 100
        assert after["memory_enabled"] == 1


def test_what_the_error_rate_is_made_of_is_there_before_it_happens(service, token):
    found = scraped(service)
    for variant in ("r0.5", "r1"):
        for outcome in ("timeout", "server"):
            assert f'memory_requests_total{{operation="erase",outcome="{outcome}",variant="{variant}"}}' in found
        assert f'stream_total{{outcome="error",variant="{variant}"}}' in found


def test_rubbish_floods_and_leavers_move_no_error_rate(service, token):
    before = outcomes(service)
    for body in ("{", "[]", '{"query": ""}', '{"query": 1e999}', '{"query": "x", "top_k": -1}'):
        assert ask(service, token, body=body)[0] in (400, 422)
    assert ask(service, "rubbish")[0] == 401
    answers = []
    flood = [threading.Thread(target=lambda: answers.append(ask(service, token)[0])) for _ in range(60)]
    for each in flood:
        each.start()
    for each in flood:
        each.join()
    for _ in range(10):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", "/api/v1/stream", json.dumps({"message": "the heat pump?"}), headers)
        connection.sock.close()
    deadline = time.monotonic() + 30
    while (outcomes(service) - before).total() < 6 + 60 + 10 and time.monotonic() < deadline:
        time.sleep(0.1)
    more = outcomes(service) - before
    assert more["client"] >= 6
    assert set(answers) <= {200, 429}
    assert more["timeout"] == more["server"] == 0


def test_switch_and_percent_are_on_all_workers_within_a_second_and_nothing_else_fails(service, token):
    seen: list[tuple[float, int, str]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            began = time.monotonic()
            status, answer = ask(service, token)
            seen.append((began, status, answer.get("variant") or answer.get("code")))
            # Without a pause the commands would wait for a core longer than for all else.
            stop.wait(PAUSE_SECONDS)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        changes = []
        for arguments, expected in (
            (("set", "MEMORY_CANARY_PCT", "0"), (200, "r0.5")),
            (("set", "MEMORY_ENABLED", "false"), (503, "memory_disabled")),
            (("clear", "MEMORY_ENABLED"), (200, "r0.5")),
            (("clear", "MEMORY_CANARY_PCT"), (200, "r1")),
        ):
            began = time.monotonic()
            service.flags(*arguments)
            changes.append((began, time.monotonic(), expected))
            time.sleep(FLAG_SECONDS + 1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        service.flags("clear", "MEMORY_ENABLED")
        service.flags("clear", "MEMORY_CANARY_PCT")
    for (_, done, expected), following in zip(changes, [began for began, _, _ in changes[1:]] + [None], strict=True):
        settled = {
            answer for at, *answer in seen if at > done + FLAG_SECONDS and (following is None or at < following)
            for answer in [tuple(answer)]
        }  # fmt: skip
        assert settled == {expected}
    assert {answer for _, *answer in seen for answer in [tuple(answer)]} == {
        (200, "r1"), (200, "r0.5"), (503, "memory_disabled"),
    }  # fmt: skip
