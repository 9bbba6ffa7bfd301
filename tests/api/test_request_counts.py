"""Each request is counted once, as what it was: who is to blame is never the service for what a client does."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
from django.db import connections
from django.test import Client
from prometheus_client import REGISTRY

from memory.admission import concurrency
from memory.problems import OURS, PROBLEMS, outcome_of
from memory.rollout.flags import forget_flags, set_flag
from tests.db.server import connect
from tests.factories import DocumentFactory

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])


@pytest.fixture(autouse=True)
def _no_flags():
    forget_flags()
    yield
    for name in ("MEMORY_ENABLED", "MEMORY_CANARY_PCT"):
        set_flag(name, None, actor="a test")
    forget_flags()


def samples(name: str) -> Counter:
    """A metric's samples by their labels' values, in the order of the labels' names."""
    found: Counter = Counter()
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.name == name:
                found[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


@contextmanager
def counted(name: str, more: dict):
    """In the block, exactly these samples grow, by so much."""
    before = samples(name)
    yield
    after = samples(name)
    assert {labels: after[labels] - before[labels] for labels in after if after[labels] != before[labels]} == more


def requests(**more: int):
    """`counted` of memory_requests_total, by "operation, outcome"; all of r1."""
    return counted(
        "memory_requests_total",
        {tuple(name.split("__")) + ("r1",): count for name, count in more.items()},
    )


def test_every_problem_has_an_outcome_and_only_the_services_own_are_its_failures():
    by_outcome = {code: outcome_of(code) for code in PROBLEMS}
    assert {code for code, outcome in by_outcome.items() if outcome in OURS} == {
        "overloaded", "decryption_failed", "internal", "key_unavailable", "database_unavailable",
    }  # fmt: skip
    assert outcome_of("overloaded", is_own=True) == "rate"


def test_what_is_answered_is_ok_and_has_its_time(alice):
    DocumentFactory(person=alice)
    with (
        requests(query__ok=1),
        counted("memory_request_ms_count", {("query", "ok", "r1"): 1}),
        counted("memory_variant_requests_total", {("ok", "r1"): 1}),
        counted(
            "memory_query_latency_ms_count", {(stage, "r1"): 1 for stage in ("embed", "ann", "open", "rerank", "total")}
        ),
        counted("memory_index_latency_ms_count", {}),
    ):
        assert alice.post("memory/query", {"query": "What is there?"}).status_code == 200
    with requests(index__ok=1), counted("memory_index_latency_ms_count", {(): 1}):
        assert alice.post("memory/index", {"doc_id": "one", "text": "One more."}).status_code == 201


def test_streams_and_summaries_are_no_queries(alice):
    DocumentFactory(person=alice)
    with counted("memory_query_latency_ms_count", {}), requests(stream__ok=1, summarize__ok=1):
        response = alice.post("stream", {"message": "What is there?"})
        assert b"event: done" in b"".join(response.streaming_content)
        response.close()
        assert alice.post("memory/summarize", {"query": "What is there?", "store": False}).status_code == 200


def test_a_client_who_leaves_a_stream_is_no_failure(alice):
    DocumentFactory(person=alice)
    with (
        requests(stream__client=1),
        counted("stream_total", {("aborted", "r1"): 1}),
        counted("memory_errors_total", {}),
    ):
        response = alice.post("stream", {"message": "What is there?"})
        next(iter(response.streaming_content))
        response.close()


@pytest.mark.parametrize(
    ("send", "operation", "outcome"),
    [
        (lambda person: person.post("memory/query", {"query": ""}), "query", "client"),
        (lambda person: person.post("memory/query", {"query": "x", "user_hash": "y"}), "query", "client"),
        (lambda person: person.get("memory/query"), "query", "client"),
        (lambda person: person.get("memory/documents/none"), "documents", "client"),
        (lambda person: person.get("nowhere"), "none", "client"),
    ],
    ids=["empty", "unknown field", "method", "missing", "no address"],
)
def test_rubbish_is_the_clients(alice, send, operation, outcome):
    reason = {"client": "bad_request"}.get(outcome, outcome)
    with requests(**{f"{operation}__{outcome}": 1}), counted("memory_errors_total", {(operation, reason): 1}):
        assert 400 <= send(alice).status_code < 500


def test_who_has_no_token_or_no_length_is_counted_too(alice):
    for headers, code in (({}, "missing_token"), ({"HTTP_AUTHORIZATION": "Bearer x"}, "invalid_token")):
        with (
            counted("memory_requests_total", {("query", "client", "none"): 1}),
            counted("memory_refused_total", {(code,): 1}),
        ):
            Client().post("/api/v1/memory/query", {"query": "x"}, content_type="application/json", **headers)
    with counted("memory_refused_total", {("unsupported_media_type",): 1}):
        Client().post("/api/v1/memory/query", "x", content_type="text/plain")
    with counted("memory_requests_total", {("index", "quota", "none"): 1}):
        alice.post("memory/index", {"doc_id": "x", "text": "a " * 500_001})


def test_a_users_own_flood_is_no_failure(alice):
    held = []
    try:
        with pytest.raises(Exception, match="as many requests"):
            while True:
                held.append(concurrency.requests.take(alice.user_hash))
        with requests(query__rate=1), counted("memory_query_latency_ms_count", {}):
            assert alice.post("memory/query", {"query": "x"}).status_code == 429
    finally:
        for slot in held:
            slot.release()


def test_a_slow_database_is_ours_and_its_time_is_seen(alice, settings):
    DocumentFactory(person=alice)
    settings.MEMORY_QUERY_SECONDS = 1
    with (
        connect("postgres") as superuser,
        superuser.transaction(),
        requests(query__timeout=1),
        counted("memory_errors_total", {("query", "timeout"): 1}),
    ):
        superuser.execute("LOCK TABLE memory_tenants, memory_chunks IN ACCESS EXCLUSIVE MODE")
        before = samples("memory_query_latency_ms_count")[("total", "r1")]
        assert alice.post("memory/query", {"query": "What is there?"}).status_code == 503
    assert samples("memory_query_latency_ms_count")[("total", "r1")] == before + 1


def test_a_failing_model_is_ours(alice, monkeypatch):
    DocumentFactory(person=alice)

    def broken(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("memory.embedding.embedder.Embedder.ask_query", broken)
    with requests(query__server=1), counted("memory_errors_total", {("query", "server"): 1}):
        assert alice.post("memory/query", {"query": "What is there?"}).status_code == 500


def test_a_full_pool_is_ours(alice):
    stored = DocumentFactory(person=alice)
    pool = connections["default"].pool
    connections["default"].close()
    taken = [pool.getconn() for _ in range(pool.max_size)]
    try:
        with requests(documents__timeout=1):
            assert alice.get(f"memory/documents/{stored.doc_id}").status_code == 503
    finally:
        for connection in taken:
            pool.putconn(connection)


def test_the_switch_turns_memory_off_and_streams_without_it_go_on(alice):
    set_flag("MEMORY_ENABLED", False, actor="a test")
    forget_flags()
    with requests(query__rate=1, stream__rate=1, stream__ok=1):
        assert alice.post("memory/query", {"query": "x"}).json()["code"] == "memory_disabled"
        assert alice.post("stream", {"message": "x"}).json()["code"] == "memory_disabled"
        response = alice.post("stream", {"message": "x", "memory": False})
        assert b"event: done" in b"".join(response.streaming_content)
        response.close()
    assert samples("memory_enabled") == {(): 0.0}
    set_flag("MEMORY_ENABLED", None, actor="a test")
    forget_flags()
    assert alice.post("memory/query", {"query": "x"}).status_code == 200
    assert samples("memory_enabled") == {(): 1.0}


def test_the_stable_pipeline_has_vectors_alone_and_says_so(alice):
    DocumentFactory(person=alice, text="The heat pump was serviced in March.")
    question = {"query": "When was the heat pump serviced?"}
    newer = alice.post("memory/query", question).json()
    set_flag("MEMORY_CANARY_PCT", 0, actor="a test")
    forget_flags()
    with counted("memory_requests_total", {("query", "ok", "r0.5"): 1}):
        stable = alice.post("memory/query", question).json()
    assert (newer["variant"], stable["variant"]) == ("r1", "r0.5")
    assert stable["rerank"] == {"backend": "none", "skipped": "not_requested"}
    [scores] = [result["scores"] for result in stable["results"]]
    assert scores["lexical"] is None
    assert scores["context"] is None
    assert scores["vector"] == pytest.approx(newer["results"][0]["scores"]["vector"])
    with counted("stream_total", {("done", "r0.5"): 1}):
        response = alice.post("stream", {"message": question["query"]})
        assert b"event: done" in b"".join(response.streaming_content)
        response.close()


def test_metrics_cost_as_many_series_for_many_users_as_for_few(alice, bob, stranger):
    def series() -> int:
        return sum(len(metric.samples) for metric in REGISTRY.collect())

    for person in (alice, bob):
        person.post("memory/query", {"query": "x"})
    before = series()
    for person in (stranger, alice, bob, stranger):
        person.post("memory/query", {"query": "x"})
    assert series() == before
