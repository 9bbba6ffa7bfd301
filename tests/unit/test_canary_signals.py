"""Signals measured from pages of metrics, served over HTTP by a tiny server as the service's own page is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from memory.rollout.calls import Unreachable, call
from memory.rollout.decision import ALL, NEW, SIGNALS, STABLE, Reading
from memory.rollout.exposition import ScrapedSource, bucket_quantile, parse
from memory.rollout.promql import PrometheusSource
from memory.rollout.signals import METRICS, evaluations, measure, of_stage, snapshot


@contextmanager
def served(answer) -> Iterator[str]:
    """The address of a server that answers GET with `answer(path)`, (status, text)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Service:
    """The metrics of a made-up service, and its page."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("memory_requests", "-", ["operation", "variant", "outcome"], registry=registry)
        self.queries = Histogram(
            "memory_query_latency_ms", "-", ["stage", "variant"], buckets=(100, 200, 400, 500), registry=registry
        )
        self.ttfv = Histogram("stream_ttfv_ms", "-", ["variant"], buckets=(1000, 2000), registry=registry)
        self.streams = Counter("stream", "-", ["variant", "outcome"], registry=registry)
        self.auth = Histogram("auth_ms", "-", buckets=(25, 50, 100), registry=registry)
        self.denied = Counter("memory_rls_denied", "-", registry=registry)
        self.in_use = Gauge("memory_db_pool_in_use", "-", registry=registry)
        self.most = Gauge("memory_db_pool_max", "-", registry=registry)

    def asked(self, variant: str, outcome: str, times: int = 1, operation: str = "query") -> None:
        self.requests.labels(operation, variant, outcome).inc(times)

    def page(self) -> str:
        return generate_latest(self.registry).decode()


@pytest.fixture
def service() -> Iterator[Service]:
    yield Service()


@pytest.fixture
def source(service) -> Iterator[ScrapedSource]:
    with served(lambda path: (200, service.page())) as url:
        yield ScrapedSource(lambda: call(url).body.decode(), 600, METRICS)


def test_a_share_of_failures_is_by_variant_and_knows_nothing_of_what_clients_cause(service, source):
    source.look(0)
    service.asked(NEW, "ok", 97)
    service.asked(NEW, "server", 2)
    service.asked(NEW, "timeout", 1)
    service.asked(STABLE, "ok", 50)
    for outcome in ("client", "rate", "quota"):
        service.asked(NEW, outcome, 10_000)
    source.look(10)
    signals = snapshot(source, 10)
    assert signals["query_error_rate"] == {NEW: Reading(0.03, 100), STABLE: Reading(0.0, 50)}


@pytest.mark.parametrize("outcome", ["client", "rate", "quota"])
def test_no_outcome_that_clients_cause_moves_any_signal(service, source, outcome):
    service.asked(NEW, "ok", 400)
    service.asked(NEW, "server", 3)
    source.look(0)
    service.asked(NEW, "ok", 400)
    service.asked(NEW, "server", 3)
    source.look(10)
    before = snapshot(source, 10)
    for operation in ("query", "index", "stream"):
        service.asked(NEW, outcome, 5_000, operation)
    source.look(11)
    assert snapshot(source, 11)["query_error_rate"] == before["query_error_rate"]
    assert snapshot(source, 11)["request_error_rate"] == before["request_error_rate"]


def test_only_what_happened_within_the_window_counts(service, source):
    service.asked(NEW, "server", 100)
    source.look(0)
    source.look(100)
    service.asked(NEW, "ok", 10)
    source.look(200)
    assert snapshot(source, 200, pace=1 / 3)["query_error_rate"][NEW] == Reading(0.0, 10)


def test_counters_of_a_service_that_was_restarted_begin_again(service, source):
    service.asked(NEW, "ok", 100)
    source.look(0)
    service.asked(NEW, "ok", 5)
    source.look(5)
    service.restart()
    service.asked(NEW, "ok", 7)
    service.denied.inc()
    source.look(10)
    assert snapshot(source, 10)["query_error_rate"][NEW] == Reading(0.0, 12)
    assert snapshot(source, 10)["rls_denied"][ALL] == Reading(1, 1)


def test_a_label_that_was_not_there_before_began_at_nothing(service, source):
    source.look(0)
    service.asked(NEW, "server", 3)
    source.look(5)
    assert snapshot(source, 5)["query_error_rate"][NEW] == Reading(1.0, 3)


def test_a_percentile_is_linear_inside_its_bucket(service, source):
    source.look(0)
    for _ in range(90):
        service.queries.labels("total", NEW).observe(150)
    for _ in range(10):
        service.queries.labels("total", NEW).observe(300)
    source.look(5)
    assert snapshot(source, 5)["query_p95_ms"][NEW] == Reading(300.0, 100)
    assert snapshot(source, 5)["query_p95_ms"][STABLE] == Reading(None, 0)


def test_a_percentile_past_the_last_bound_is_that_bound():
    assert bucket_quantile(0.95, {1.0: 0, 2.0: 1, float("inf"): 100}) == (2.0, 100)
    assert bucket_quantile(0.5, {1.0: 10, float("inf"): 10}) == (0.5, 10)
    assert bucket_quantile(0.95, {}) == (None, 0)


def test_streams_that_clients_left_are_no_failures_and_refusals_are_not_counted(service, source):
    source.look(0)
    for outcome, times in {"done": 199, "error": 1, "aborted": 500, "refused": 500}.items():
        service.streams.labels(NEW, outcome).inc(times)
    source.look(5)
    assert snapshot(source, 5)["stream_success"][NEW] == Reading(0.995, 200)


def test_the_pools_share_is_its_mean(service, source):
    service.most.set(8)
    for at, used in enumerate((2, 4, 6)):
        service.in_use.set(used)
        source.look(at)
    assert snapshot(source, 2)["pool_share"][ALL] == Reading(0.5, 3)


def test_the_two_evaluations_share_no_request(service, source):
    for at, outcome in ((0, "ok"), (150, "server"), (300, "ok")):
        service.asked(NEW, outcome, 100)
        source.look(at)
    earlier, latest = evaluations(source, 300)
    assert earlier["query_error_rate"][NEW] == Reading(1.0, 100)
    assert latest["query_error_rate"][NEW] == Reading(0.0, 100)
    assert set(latest) == {signal.name for signal in SIGNALS}


def test_a_run_younger_than_a_window_has_no_earlier_evaluation(service, source):
    source.look(0)
    source.look(200)
    earlier, latest = evaluations(source, 200, since=0)
    assert earlier == {} and latest["rls_denied"][ALL] == Reading(0, 1)


def test_a_stage_that_is_longer_than_any_window_is_known_as_a_whole(service, source):
    for at in range(0, 10_000, 100):
        service.asked(NEW, "ok", 10)
        source.look(at)
    assert of_stage(source, 9_900, 0)["query_error_rate"][NEW] == Reading(0.0, 990)
    assert 2_000 < of_stage(source, 9_900, 7_600)["query_error_rate"][NEW].n * 10 <= 2_600


def test_a_page_that_is_no_page_of_metrics_is_an_error():
    with pytest.raises(ValueError):
        parse("memory_requests_total is not a number\n", 0, METRICS)


def test_an_address_where_nobody_answers_is_unreachable():
    with pytest.raises(Unreachable, match="does not answer"):
        call("http://127.0.0.1:1/metrics")
    with pytest.raises(Unreachable, match="no http"):
        call("file:///etc/passwd")


def test_a_prometheus_server_is_asked_for_the_same_signals():
    asked = []

    def answer(path: str) -> tuple[int, str]:
        query = parse_qs(urlsplit(path).query)
        asked.append((query["query"][0], query["time"][0]))
        value = "0.25" if "histogram" in query["query"][0] else "200"
        return 200, json.dumps({"status": "success", "data": {"result": [{"value": [0, value]}]}})

    with served(answer) as url:
        window = PrometheusSource(url).window(850, 1000)
        read = measure(window, ["query_error_rate", "query_p95_ms", "pool_share"])
    assert read["query_error_rate"][STABLE] == Reading(1.0, 200)
    assert read["query_p95_ms"][NEW] == Reading(0.25, 200)
    assert asked[0] == (
        'sum(increase(memory_requests_total{operation="query", variant="r1", outcome=~"timeout|server"}[150s]))',
        "1000.000",
    )
    assert 'increase(memory_query_latency_ms_bucket{stage="total", variant="r0.5"}[150s])' in str(asked)


def test_a_prometheus_server_with_nothing_to_say_measures_nothing_and_one_that_errs_is_unreachable():
    with served(lambda path: (200, json.dumps({"data": {"result": []}}))) as url:
        read = measure(PrometheusSource(url).window(0, 10), ["query_error_rate", "auth_p95_ms"])
    assert read == {
        "query_error_rate": {NEW: Reading(None, 0), STABLE: Reading(None, 0)},
        "auth_p95_ms": {ALL: Reading(None, 0)},
    }
    with served(lambda path: (503, "starting")) as url, pytest.raises(Unreachable, match="503"):
        PrometheusSource(url).look(0)
