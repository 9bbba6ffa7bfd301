"""What release 0.5 promised, against a service of its own under gunicorn: `make nonregression`, apart from `make test`.

Each figure is the median of REPEATS runs, printed with its target. The machine should do nothing else meanwhile.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.bench import tiny_reranker
from deploy.bench.arrivals import Planned, http_get, run
from reranker import RerankConfig
from reranker.reranker import Reranker
from tests.faults.service import running

pytestmark = pytest.mark.skipif(not os.environ.get("R1_NONREGRESSION"), reason="figures: run `make nonregression`")

REPEATS = 3
DOCUMENTS, QUERIES, STREAMS, AT_ONCE, CANDIDATES = 12, 40, 90, 25, 24
POOL_MAX, RATE, LOAD_SECONDS = 8, 100.0, 5.0
TEXT = "The heat pump was serviced in March. Its filter is changed every six months. Part {} of the notes."
TABLE: list[str] = []


@pytest.fixture(scope="module")
def service():
    rates = {f"MEMORY_RATE_{name}": "off" for name in ("QUERY", "INDEX", "CHUNKS", "DEFAULT")}
    with running(MEMORY_DB_POOL_MAX=str(POOL_MAX), MEMORY_USER_CONCURRENCY="30", **rates) as service:
        service.bearer = service.token("carol")
        for number in range(DOCUMENTS):
            body = {"doc_id": f"notes/{number}", "text": TEXT.format(number) * 8}
            assert service.call("POST", "/api/v1/memory/index", service.bearer, body)[0] == 201
        yield service


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Print every figure beside its target once all are there."""
    yield
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        terminal.write("\n" + "\n".join(TABLE) + "\n")


def hold(what: str, values: list[float], most: float | None, unit: str = "ms") -> None:
    """A row of the table; fails where the median of the runs is above `most`."""
    median = statistics.median(values)
    TABLE.append(f"{what:<44} {median:>9.2f} {unit:<4} target {f'<= {most:g}' if most is not None else 'none'}")
    assert most is None or median <= most, TABLE[-1]


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def timed_ms(service, method: str, path: str, body: dict | None = None) -> tuple[int, float]:
    """Status and milliseconds until the first event of a stream, or the last byte of anything else."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    headers = {"Authorization": f"Bearer {service.bearer}", "Content-Type": "application/json"}
    started = time.perf_counter()
    connection.request(method, f"/api/v1/{path}", None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    if path != "stream":
        response.read()
        return response.status, (time.perf_counter() - started) * 1000
    first_ms, was_done = None, False
    for line in response:
        if first_ms is None and line.startswith(b"event: token"):
            first_ms = (time.perf_counter() - started) * 1000
        was_done = was_done or line.startswith(b"event: done")
    return 200 if was_done else 0, first_ms or 30_000.0


def test_streams_speak_soon_and_come_to_their_end(service):
    p95s, failed = [], []
    for _ in range(REPEATS):
        with ThreadPoolExecutor(4) as callers:
            ask = {"message": "How often is the filter changed?"}
            streams = [callers.submit(timed_ms, service, "POST", "stream", ask) for _ in range(STREAMS)]
            answers = [stream.result() for stream in streams]
        p95s.append(percentile([ms for _, ms in answers], 95))
        failed.append(100 * sum(status != 200 for status, _ in answers) / STREAMS)
    hold("first token, p95", p95s, 1500)
    hold("streams that failed", failed, 0.4, "%")


def test_a_token_is_checked_soon_while_queries_run(service):
    medians, slowest = [], []
    for _ in range(REPEATS):
        with ThreadPoolExecutor(2 * AT_ONCE) as callers:
            ask = {"query": "When is the filter due?"}
            queries = [callers.submit(timed_ms, service, "POST", "memory/query", ask) for _ in range(AT_ONCE)]
            checks = [callers.submit(timed_ms, service, "GET", "auth/check") for _ in range(AT_ONCE)]
            assert {check.result()[0] for check in checks} == {204}
            assert {query.result()[0] for query in queries} <= {200, 429, 503}
        slowest.append(max(check.result()[1] for check in checks))
        medians.append(statistics.median(timed_ms(service, "GET", "auth/check")[1] for _ in range(AT_ONCE)))
    hold("auth check, alone", medians, 50)
    hold(f"auth check, slowest of {AT_ONCE} beside {AT_ONCE} queries", slowest, 100)


def test_queries_and_writes_keep_their_time(service):
    for operation, method, body, status in (
        ("query", "POST", {"query": "When is the filter due?"}, 200),
        ("index", "POST", {"doc_id": "notes/0", "text": TEXT.format(0) * 8}, 200),
    ):
        runs = []
        for _ in range(REPEATS):
            answers = [timed_ms(service, method, f"memory/{operation}", body) for _ in range(QUERIES)]
            assert {found for found, _ in answers} == {status}
            runs.append([ms for _, ms in answers])
        for percent in (50, 95, 99):
            hold(f"{operation}, p{percent}", [percentile(each, percent) for each in runs], None)


def test_the_pool_has_room_at_a_hundred_requests_a_second(service):
    """Of GET memory/stats, each of which needs a connection: two cores do not carry so many queries beside the load."""
    shares = []
    for _ in range(REPEATS):
        in_use, ended = [0.0], threading.Event()

        def watch(in_use=in_use, ended=ended) -> None:
            while not ended.wait(0.1):
                connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
                connection.request("GET", "/metrics/memory")
                exposed = connection.getresponse().read().decode()
                in_use += [float(value) for value in re.findall(r"^memory_db_pool_in_use (\S+)", exposed, re.MULTILINE)]

        watcher = threading.Thread(target=watch)
        watcher.start()
        requests = [Planned("stats", http_get("memory/stats", service.bearer))] * int(RATE * LOAD_SECONDS)
        answers = run(service.port, RATE, requests)
        ended.set()
        watcher.join()
        assert len(in_use) > 5 and not [answer.status for answer in answers if answer.is_error]
        shares.append(100 * percentile(in_use, 95) / POOL_MAX)
    hold(f"pool in use at {RATE:g} requests/s, p95", shares, 80, "%")


def test_rerank_latency_under_budget(tmp_path):
    texts = [TEXT.format(number) * 4 for number in range(CANDIDATES)]
    tiny = Reranker(RerankConfig(model=str(tiny_reranker.build(tmp_path / "tiny")), device="cpu"))
    try:
        assert tiny.warm(120)
        runs = []
        for _ in range(REPEATS):
            times = []
            for _ in range(20):
                started = time.perf_counter()
                assert tiny.rerank("When is the filter due?", texts, 10_000)
                times.append((time.perf_counter() - started) * 1000)
            runs.append(times)
    finally:
        tiny.close()
    hold(f"rerank of {CANDIDATES}, p50", [percentile(each, 50) for each in runs], None)
    hold(f"rerank of {CANDIDATES}, p95", [percentile(each, 95) for each in runs], 250)


def test_memory_switched_off_refuses_and_tokens_are_checked_all_the_same():
    with running(MEMORY_ENABLED="false") as off:
        off.bearer = off.token("carol")
        status, problem = off.call("POST", "/api/v1/memory/query", off.bearer, {"query": "?"})
        assert (status, problem["code"]) == (503, "memory_disabled")
        assert timed_ms(off, "GET", "auth/check")[0] == 204
