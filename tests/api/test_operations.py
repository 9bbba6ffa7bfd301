"""Health and metrics."""

import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema_rs
import pytest
from django.db import connections
from django.test import Client

import reranker
from memory.api.schema import document
from memory.embedding import process
from memory.embedding.process import get_embedder
from memory.retrieval.reranker_config import deployed_config
from memory.rollout import flags
from memory.rollout.flags import forget_flags, set_flag
from r1site import health
from r1site import metrics as site_metrics
from tests.factories import DocumentFactory
from tests.tiny_models import ForwardGate, build_cross_encoder, build_sentence_model

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _fresh_health(monkeypatch):
    monkeypatch.setattr(health, "_cached", None)


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_live_needs_no_token_and_no_database(prefix, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert Client().get(f"{prefix}/health/live").json() == {"status": "ok"}


def test_ready_names_every_component():
    get_embedder().load()
    response = Client().get("/health/ready")
    assert response.status_code == 200, response.content
    components = response.json()["components"]
    assert set(components) == {"database", "role", "migrations", "keys", "embedder", "reranker"}
    assert {component["status"] for component in components.values()} == {"ok"}


def test_a_second_model_that_is_not_there_is_reported_and_leaves_the_worker_in_service(settings, monkeypatch, tmp_path):
    first = get_embedder()
    settings.MEMORY_NEXT_EMBEDDING_MODEL = str(build_sentence_model(tmp_path / "next"))
    process.forget_embedders()
    _, second = process.configured_embedders()
    monkeypatch.setattr(process, "_embedders", (process._embedders[0], (first, second)))
    try:
        response = Client().get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (200, "degraded"), response.content
        found = response.json()["components"]["next_embedder"]
        assert found == {"status": "degraded", "reason": "not loaded", "model": settings.MEMORY_NEXT_EMBEDDING_MODEL}

        second.load()
        health._cached = None
        found = Client().get("/health/ready").json()
        assert (found["status"], found["components"]["next_embedder"]["status"]) == ("ok", "ok")
    finally:
        second.close()
        monkeypatch.setattr(process, "_embedders", (process.os.getpid(), (first,)))


def test_ready_is_503_without_a_usable_key(monkeypatch):
    get_embedder().load()
    monkeypatch.delenv("MEMORY_TENANT_HMAC_KEY_FILE", raising=False)
    monkeypatch.setenv("MEMORY_TENANT_HMAC_KEY", "c2hvcnQ=")
    response = Client().get("/health/ready")
    assert response.status_code == 503
    assert response.json()["components"]["keys"]["status"] == "failed"


def reranker_in_health() -> dict:
    health._cached = None
    response = Client().get("/health/ready")
    assert response.status_code == 200, response.content
    return response.json()["components"]["reranker"]


def test_a_reranker_that_cannot_score_degrades_and_never_fails(settings, tmp_path, monkeypatch):
    get_embedder().load()

    def broken(pairs):
        raise ValueError("no scores today")

    assert reranker_in_health() == {"status": "ok", "backend": "none"}
    try:
        settings.RERANK_BACKEND = "cross_encoder"
        reranker.configure(reranker.RerankConfig(backend="cross_encoder", model=str(tmp_path / "nothing")))
        found = reranker_in_health()
        assert found["reason"] == "not loaded"
        schemas = json.loads(document.PATH.read_bytes())["components"]["schemas"]
        jsonschema_rs.validate(schemas["ComponentState"], found)
        assert not reranker.warm(30)
        found = reranker_in_health()
        assert (found["status"], found["reason"]) == ("degraded", "no_backend")

        folder = build_cross_encoder(tmp_path / "tiny")
        reranker.configure(reranker.RerankConfig(backend="cross_encoder", model=str(folder), device="cpu"))
        assert reranker.warm(60)
        found = reranker_in_health()
        assert (found["status"], found["backend"]) == ("ok", "cross_encoder")
        ForwardGate(reranker._process_reranker, monkeypatch).before = broken
        for _ in range(2):
            assert not reranker.maybe_rerank("query", ["one passage", "another"], timeout_ms=30_000).reranked
        found = reranker_in_health()
        assert (found["status"], found["reason"]) == ("degraded", "circuit_open")
    finally:
        reranker.configure_lazily(deployed_config)
        reranker.close()


def test_a_full_pool_is_overloaded_and_not_a_database_that_is_away(alice, caplog):
    stored = DocumentFactory(person=alice)
    pool = connections["default"].pool
    connections["default"].close()
    taken = [pool.getconn() for _ in range(pool.max_size)]
    try:
        refused = alice.get(f"memory/documents/{stored.doc_id}")
        # A request reads them too, where their second is over.
        caplog.clear()
        forget_flags()
        flags.flag("RERANK_POOL")
        health._cached = None
        probed = Client().get("/health/ready")
    finally:
        for connection in taken:
            pool.putconn(connection)
        health._cached = None
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert [record.getMessage() for record in caplog.records if record.name == flags.logger.name] == [
        "flags cannot be read (OperationalError); the last values stand"
    ]
    # Elsewhere it would be as busy: no reason to take this worker out of the balancer.
    assert (probed.status_code, probed.json()["status"]) == (200, "degraded")
    assert probed.json()["components"]["database"] == {"status": "degraded", "reason": "pool_full"}
    assert alice.get(f"memory/documents/{stored.doc_id}").status_code == 200


def test_metrics_are_for_loopback_without_a_proxy_or_for_the_token(alice, settings):
    DocumentFactory(person=alice, text="A sentence to be counted.")
    alice.query("sentence")
    page = Client().get("/metrics").content.decode()
    for name in ("memory_index_latency_ms_bucket", "memory_query_latency_ms_bucket", "auth_ms_bucket",
                 "memory_cross_tenant_attempts_total", "memory_rls_denied_total"):  # fmt: skip
        assert name in page
    assert alice.user_id not in page
    assert alice.user_hash not in page
    assert Client().get("/metrics", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 401
    assert Client(REMOTE_ADDR="10.0.0.1").get("/metrics").status_code == 401
    settings.MEMORY_METRICS_TOKEN = "scrape-me"
    remote = Client(REMOTE_ADDR="10.0.0.1")
    assert remote.get("/metrics", headers={"authorization": "Bearer scrape-me"}).status_code == 200
    assert remote.get("/metrics", headers={"authorization": "Bearer other"}).status_code == 401


def test_the_memory_metrics_have_an_address_of_their_own_with_the_same_guard(alice, settings):
    DocumentFactory(person=alice, text="A sentence to be counted.")
    alice.query("sentence")
    page = Client().get("/metrics/memory").content.decode()
    exposed = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ")}
    assert exposed >= {"memory_query_latency_ms", "memory_errors_total", "rerank_ms", "auth_ms", "memory_db_pool_size"}
    assert "stream_total" in exposed
    assert all(name.startswith(("memory_", "rerank_", "auth_", "stream_")) for name in exposed)
    assert Client().get("/api/v1/metrics/memory").status_code == 200
    assert Client().get("/metrics/memory", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 401
    settings.MEMORY_METRICS_TOKEN = "scrape-me"
    remote = Client(REMOTE_ADDR="10.0.0.1")
    assert remote.get("/api/v1/metrics/memory", headers={"authorization": "Bearer scrape-me"}).status_code == 200
    assert remote.get("/api/v1/metrics/memory", headers={"authorization": "Bearer other"}).status_code == 401


@pytest.mark.django_db(transaction=True, databases=["default", "maint"])
def test_readiness_follows_the_flags_and_not_the_settings_alone(settings):
    settings.RERANK_BACKEND = "cross_encoder"
    try:
        set_flag("RERANK_ENABLED", False, actor="a test")
        forget_flags()
        assert reranker_in_health() == {"status": "ok", "backend": "none"}
        set_flag("RERANK_ENABLED", None, actor="a test")
        set_flag("RERANK_BACKEND", "none", actor="a test")
        forget_flags()
        assert reranker_in_health() == {"status": "ok", "backend": "none"}
        set_flag("RERANK_BACKEND", None, actor="a test")
        forget_flags()
        assert reranker_in_health()["status"] == "degraded"
    finally:
        for name in ("RERANK_ENABLED", "RERANK_BACKEND"):
            set_flag(name, None, actor="a test")
        forget_flags()


@pytest.mark.django_db(transaction=True, databases=["default", "maint"])
def test_without_the_database_readiness_goes_by_the_flags_as_they_were_last(settings):
    settings.RERANK_BACKEND = "cross_encoder"
    pool = connections["default"].pool
    taken = []
    try:
        set_flag("RERANK_ENABLED", False, actor="a test")
        forget_flags()
        assert reranker_in_health() == {"status": "ok", "backend": "none"}
        forget_flags()
        connections["default"].close()
        taken = [pool.getconn() for _ in range(pool.max_size)]
        assert reranker_in_health() == {"status": "ok", "backend": "none"}
    finally:
        for connection in taken:
            pool.putconn(connection)
        health._cached = None
        set_flag("RERANK_ENABLED", None, actor="a test")
        forget_flags()


def test_users_own_indexes_are_counted_beside_the_scrape_and_shown_by_the_next(alice, superuser, monkeypatch):
    DocumentFactory(person=alice)
    superuser.execute(
        f"CREATE INDEX memory_own_{'0' * 32}_1 ON memory_chunks_p00 USING hnsw"
        " ((embedding::halfvec(384)) halfvec_cosine_ops) WHERE vector_dims(embedding) = 384"
    )
    try:
        monkeypatch.setattr(site_metrics, "_stored_seen", -math.inf)
        Client().get("/metrics/memory")
        for look in [thread for thread in threading.enumerate() if thread.name == "stored-gauges"]:
            look.join(30)
        page = Client().get("/metrics/memory").content.decode().splitlines()
    finally:
        superuser.execute(f"DROP INDEX memory_own_{'0' * 32}_1")
    shown = {line.split()[0]: float(line.split()[1]) for line in page if line.startswith("memory_own_index")}
    assert shown["memory_own_indexes"] == 1
    assert shown["memory_own_index_bytes"] > 0


def test_where_no_thread_can_be_started_to_count_them_the_next_scrape_tries_again(monkeypatch):
    tried = []

    def refuse(thread):
        tried.append(thread.name)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(site_metrics, "_stored_seen", -math.inf)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        site_metrics.observe_stored()
    assert tried == ["stored-gauges"] * 2


def test_the_rerankers_own_view_of_itself_is_json():
    found = Client().get("/metrics/memory?format=json")
    assert found["Content-Type"] == "application/json"
    assert found.json() == json.loads(json.dumps(reranker.get_rerank_metrics()))
    assert {"rerank_skipped_total", "rerank_latency_ms", "device"} <= set(found.json())
    assert set(found.json()["rerank_latency_ms"]) == {"p50", "p95", "max"}
    assert Client(REMOTE_ADDR="10.0.0.1").get("/metrics/memory?format=json").status_code == 401


def test_the_pools_gauges_say_what_is_lent_and_who_waits(alice):
    stored = DocumentFactory(person=alice)
    pool = connections["default"].pool
    connections["default"].close()
    taken = [pool.getconn() for _ in range(pool.max_size)]

    def read():
        try:
            return alice.get(f"memory/documents/{stored.doc_id}").status_code
        finally:
            connections["default"].close()

    def gauges() -> dict[str, float]:
        page = Client().get("/metrics/memory").content.decode().splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in page if line.startswith("memory_db_pool_")}

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(read)
        while not pool.get_stats()["requests_waiting"]:
            assert not waiting.done(), waiting.result()
            time.sleep(0.01)
        busy = gauges()
        for connection in taken:
            pool.putconn(connection)
        assert waiting.result(30) == 200
    size = float(pool.max_size)
    assert busy == {
        "memory_db_pool_max": size,
        "memory_db_pool_size": size,
        "memory_db_pool_in_use": size,
        "memory_db_pool_waiting": 1.0,
    }
    assert gauges() == busy | {"memory_db_pool_in_use": 0.0, "memory_db_pool_waiting": 0.0}


def test_an_unknown_address_is_a_problem_document(alice):
    response = alice.get("nowhere")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"
    assert response["X-Request-ID"] == response.json()["request_id"]


def test_a_wrong_method_is_405_with_allow(alice):
    response = alice.get("memory/query")
    assert response.status_code == 405
    assert "POST" in response["Allow"]
