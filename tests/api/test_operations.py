"""Health and metrics."""

import pytest
from django.test import Client

from memory.retrieval.models import get_embedder
from r1site import health

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


def test_ready_is_503_without_a_usable_key(monkeypatch):
    get_embedder().load()
    monkeypatch.delenv("MEMORY_TENANT_HMAC_KEY_FILE", raising=False)
    monkeypatch.setenv("MEMORY_TENANT_HMAC_KEY", "c2hvcnQ=")
    response = Client().get("/health/ready")
    assert response.status_code == 503
    assert response.json()["components"]["keys"]["status"] == "failed"


def test_metrics_are_for_loopback_without_a_proxy_or_for_the_token(alice, settings):
    alice.index("d", "A sentence to be counted.")
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


def test_an_unknown_address_is_a_problem_document(alice):
    response = alice.get("nowhere")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"
    assert response["X-Request-ID"] == response.json()["request_id"]


def test_a_wrong_method_is_405_with_allow(alice):
    response = alice.get("memory/query")
    assert response.status_code == 405
    assert "POST" in response["Allow"]
