"""How long answers are, over real sockets: said in a header, and kept to."""

from __future__ import annotations

import http.client
import json

import pytest

from tests.faults.service import running

PATIENCE_SECONDS = 30
CALLS = [
    ("GET", "/health/live", None, 200),
    ("GET", "/api/v1/health/ready", None, 200),
    ("GET", "/metrics", None, 200),
    ("GET", "/api/v1/schema", None, 200),
    ("GET", "/api/v1/docs", None, 200),
    ("GET", "/api/v1/memory/stats", None, 200),
    ("POST", "/api/v1/memory/query", {"query": "Wo ist Zürich?"}, 200),
    ("GET", "/api/v1/memory/documents/nowhere", None, 404),
    ("DELETE", "/api/v1/memory/stats", None, 405),
    ("GET", "/nowhere", None, 404),
]


@pytest.fixture(scope="module")
def service():
    with running(RERANK_BACKEND="none") as service:
        yield service


@pytest.fixture(scope="module")
def token(service) -> str:
    return service.token("alice")


@pytest.fixture
def wire(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE_SECONDS)
    yield connection
    connection.close()


def ask(wire, token, method, path, body=None, **headers):
    """Response and body; over the connection of the one before, which its length has to leave usable."""
    headers |= {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    wire.request(method, path, None if body is None else json.dumps(body), headers)
    response = wire.getresponse()
    return response, response.read()


def test_every_answer_in_one_piece_says_how_long_it_is(wire, token):
    for method, path, body, status in CALLS:
        response, content = ask(wire, token, method, path, body)
        assert response.status == status, (path, content)
        assert response.getheader("Content-Length") == str(len(content)), path
        assert response.getheader("Transfer-Encoding") is None
        assert not response.will_close


def test_head_has_the_length_that_get_has_and_no_body(wire, token, service):
    before = service.log.stat().st_size
    for path in ("/health/live", "/api/v1/schema", "/api/v1/docs", "/api/v1/memory/stats", "/nowhere"):
        response, content = ask(wire, token, "GET", path, **{"X-Request-ID": "same"})
        head, nothing = ask(wire, token, "HEAD", path, **{"X-Request-ID": "same"})
        assert (head.status, nothing) == (response.status, b"")
        assert head.getheader("Content-Length") == str(len(content)), path
    assert "WSGI app sent body bytes" not in service.log.read_bytes()[before:].decode()


def test_an_answer_without_content_or_without_end_has_no_length(wire, token):
    checked, nothing = ask(wire, token, "GET", "/api/v1/auth/check")
    assert (checked.status, checked.getheader("Content-Length"), nothing) == (204, None, b"")
    docs, _ = ask(wire, token, "GET", "/api/v1/docs")
    unchanged, nothing = ask(wire, token, "GET", "/api/v1/docs", **{"If-None-Match": docs.getheader("ETag")})
    assert (unchanged.status, unchanged.getheader("Content-Length"), nothing) == (304, None, b"")
    export, _ = ask(wire, token, "GET", "/api/v1/memory/export")
    assert (export.getheader("Content-Length"), export.getheader("Transfer-Encoding")) == (None, "chunked")
    head, nothing = ask(wire, token, "HEAD", "/api/v1/memory/export")
    assert (head.status, head.getheader("Content-Length"), nothing) == (200, None, b"")
    stream, events = ask(wire, token, "POST", "/api/v1/stream", {"message": "Hallo", "memory": False})
    assert (stream.getheader("Content-Length"), b"event: done" in events) == (None, True)


def test_the_longest_addresses_that_are_allowed_are_read_and_a_little_more_is_told_why(wire, token):
    allowed = (
        f"/api/v1/memory/documents?cursor={'A' * 1500}&thread_id={'%F0%9F%99%82' * 128}&source={'%F0%9F%99%82' * 64}"
    )
    refused, content = ask(wire, token, "GET", allowed)
    assert (refused.status, json.loads(content)["errors"][0]["code"]) == (422, "invalid")
    refused, content = ask(wire, token, "GET", f"/api/v1/memory/documents?cursor={'A' * 6000}")
    assert (refused.status, json.loads(content)["errors"][0]["code"]) == (422, "max_length")
    refused, content = ask(wire, token, "GET", f"/api/v1/memory/documents?cursor={'A' * 9000}")
    assert (refused.status, json.loads(content)["code"]) == (414, "uri_too_long")
