"""What the service before memory could do, and still can: streams that begin at once, authentication, room in the pool.

The published targets of R0.5, measured over HTTP on a real gunicorn with two workers, while memory is in use and where
it is not asked for: `make nonregression`. Beside them those of indexing and querying.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deploy.bench.arrivals import Planned, http_get, http_request
from deploy.bench.arrivals import run as open_loop
from deploy.bench.stream import judge
from deploy.bench.wire import mint_tokens
from tests.faults.service import running
from tests.non_regression.conftest import RUNS, Targets

pytestmark = pytest.mark.measured

USERS = 10
TURNS = [
    "The heat pump was serviced in March; its filter is changed every six months.",
    "Maria came from Stockholm to look at the boiler.",
    "The roses are cut back in late winter, before the first leaves.",
    "The boat lies in harbour seven, and its engine was overhauled in May.",
    "Book nine was lent to Anna, who has had it since November.",
]
QUESTIONS = ["When was the heat pump serviced?", "Who looked at the boiler?", "Where does the boat lie?"]
STREAMS, STREAMS_AT_ONCE = 120, 4
BESIDE = 25
# The rate that the pool is asked about, and for how long. Of a hundred requests so many are queries and writes: what
# two cores shared with their load can answer; the others read one document.
RATE, RATE_SECONDS, QUERIES, WRITES = 100, 12, 20, 5
ASKED = 60


@pytest.fixture(scope="module")
def service():
    """Two workers, memory on, rates off: what one caller may ask is not what is measured."""
    off = {f"MEMORY_RATE_{bucket}": "off" for bucket in ("DEFAULT", "QUERY", "INDEX", "CHUNKS")}
    with running(WEB_CONCURRENCY="2", **off) as service:
        yield service


@pytest.fixture(scope="module")
def tokens(service) -> list[str]:
    """Tokens of users who have a memory."""
    tokens = mint_tokens(service.var, [f"user {number}" for number in range(USERS)])
    for token in tokens:
        for number, text in enumerate(TURNS * 4):
            status, _ = service.call("POST", "/api/v1/memory/index", token, {"doc_id": f"turn/{number}", "text": text})
            assert status == 201
        for question in QUESTIONS:
            assert service.call("POST", "/api/v1/memory/query", token, {"query": question})[0] == 200
    return tokens


def p95(laps_ms: list[float]) -> float:
    return float(np.percentile(laps_ms, 95))


def timed(connection: http.client.HTTPConnection, method: str, path: str, token: str, body=None) -> tuple[int, float]:
    """(status, milliseconds to the last byte), on a connection that stays open."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    started = time.perf_counter()
    connection.request(method, f"/api/v1/{path}", None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    response.read()
    return response.status, (time.perf_counter() - started) * 1000


def streamed(service, token: str, *, memory: bool, number: int) -> tuple[float | None, str | None]:
    """One stream: (milliseconds to its first token, what it lacks to be complete)."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = {"message": QUESTIONS[number % len(QUESTIONS)], "memory": memory}
    started, first_ms, raw = time.perf_counter(), None, b""
    try:
        connection.request("POST", "/api/v1/stream", json.dumps(body), headers)
        response = connection.getresponse()
        while block := response.read1(65536):
            raw += block
            if first_ms is None and b"event: token" in raw:
                first_ms = (time.perf_counter() - started) * 1000
    except OSError as error:
        return None, type(error).__name__
    finally:
        connection.close()
    return first_ms, judge(raw) if response.status == 200 else str(response.status)


@pytest.mark.parametrize("memory", [True, False], ids=["memory on", "memory off"])
def test_streams_begin_soon_and_are_complete(service, tokens, targets: Targets, memory):
    first_tokens, complete = [], []
    for _ in range(RUNS):
        with ThreadPoolExecutor(STREAMS_AT_ONCE) as pool:
            streams = list(
                pool.map(lambda n: streamed(service, tokens[n % USERS], memory=memory, number=n), range(STREAMS))
            )
        first_tokens.append(p95([first for first, _ in streams if first is not None]))
        complete.append(100 * sum(lacks is None for _, lacks in streams) / STREAMS)
    said = "on" if memory else "off"
    targets.at_most(f"first token p95, memory {said}", 1_500, first_tokens)
    targets.at_least(f"complete streams, memory {said}", 99.6, complete)


def test_authentication_is_quick_while_as_many_queries_run(service, tokens, targets: Targets):
    slowest = []
    for _ in range(RUNS):
        stop = threading.Event()

        def ask(number: int, stop: threading.Event = stop) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
            while not stop.is_set():
                timed(connection, "POST", "memory/query", tokens[number % USERS], {"query": QUESTIONS[number % 3]})
            connection.close()

        with ThreadPoolExecutor(BESIDE) as pool:
            asking = [pool.submit(ask, number) for number in range(BESIDE)]
            time.sleep(0.5)
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
            checks = [timed(connection, "GET", "auth/check", tokens[n % USERS]) for n in range(BESIDE)]
            connection.close()
            stop.set()
            for each in asking:
                each.result()
        assert {status for status, _ in checks} == {204}
        slowest.append(max(took_ms for _, took_ms in checks))
    targets.at_most(f"the slowest of {BESIDE} auth checks beside {BESIDE} queries", 100, slowest)


def test_verifying_a_token_is_a_small_part_of_a_request(service, tokens, targets: Targets):
    p95s = []
    for _ in range(RUNS):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        p95s.append(p95([timed(connection, "GET", "auth/check", tokens[n % USERS])[1] for n in range(200)]))
        connection.close()
    targets.at_most("auth check p95, one caller", 50, p95s)


def pool_share(service) -> float:
    """How much of all workers' pools is lent out, in percent."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", "/metrics/memory")
    page = connection.getresponse().read().decode()
    connection.close()
    most, in_use = (float(re.search(rf"^memory_db_pool_{n} (\S+)$", page, re.M)[1]) for n in ("max", "in_use"))
    return 100 * in_use / most


def test_the_pool_has_room_at_a_hundred_requests_a_second(service, tokens, targets: Targets):
    plan = []
    for number in range(RATE * RATE_SECONDS):
        token, at = tokens[number % USERS], number * 37 % 100
        if at < QUERIES:
            body = json.dumps({"query": QUESTIONS[number % 3]}).encode()
            plan.append(Planned("query", http_request("memory/query", token, body)))
        elif at < QUERIES + WRITES:
            body = json.dumps({"doc_id": f"more/{number % 50}", "text": TURNS[number % 5]}).encode()
            plan.append(Planned("index", http_request("memory/index", token, body)))
        else:
            plan.append(Planned("document", http_get(f"memory/documents/turn/{number % 20}", token)))
    shares, errors = [], []
    for _ in range(RUNS):
        seen, stop = [], threading.Event()

        def look(seen: list[float] = seen, stop: threading.Event = stop) -> None:
            while not stop.wait(0.25):
                seen.append(pool_share(service))

        looking = threading.Thread(target=look)
        looking.start()
        answers = open_loop(service.port, RATE, plan)
        stop.set()
        looking.join()
        shares.append(p95(seen))
        errors.append(100 * sum(answer.is_error for answer in answers) / len(answers))
    targets.at_most(f"pool in use, p95, {RATE} requests/s", 80, shares, "%")
    targets.at_most(f"errors at {RATE} requests/s", 0, errors, "%")


def test_queries_and_writes_of_one_caller_keep_their_targets(service, tokens, targets: Targets):
    queries, writes = [], []
    for run in range(RUNS):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        asked = [
            timed(connection, "POST", "memory/query", tokens[n % USERS], {"query": QUESTIONS[n % 3]})
            for n in range(ASKED)
        ]
        written = [
            timed(
                connection,
                "POST",
                "memory/index",
                tokens[n % USERS],
                {"doc_id": f"new/{run}/{n}", "text": TURNS[n % 5]},
            )
            for n in range(ASKED)
        ]
        connection.close()
        assert {status for status, _ in asked + written} <= {200, 201}
        queries.append(p95([took_ms for _, took_ms in asked]))
        writes.append(p95([took_ms for _, took_ms in written]))
    targets.at_most("query p95, one caller", 350, queries)
    targets.at_most("index p95, one turn, one caller", 750, writes)
