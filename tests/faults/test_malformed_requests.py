"""Requests that no client of ours sends, over real sockets: what they get, and that no log keeps a word of them."""

from __future__ import annotations

import json
import socket
import time
from email import message_from_string
from email.message import Message

import pytest

from memory.problems import PROBLEMS
from tests.faults.service import running

CANARY = "canaryquokka"
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def service():
    with running(RERANK_BACKEND="none") as service:
        yield service


def answered(service, request: bytes) -> tuple[int, bytes]:
    """The status and body of the first answer to `request`, sent as it is; what follows it goes unread."""
    status, _, body = answer_to(service, request)
    return status, body


def answer_to(service, request: bytes) -> tuple[int, Message, bytes]:
    """Status, headers and body."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_SECONDS) as wire:
        wire.sendall(request)
        received = b""
        while block := wire.recv(65536):
            received += block
    head, _, body = received.partition(b"\r\n\r\n")
    line, _, headers = head.decode("latin-1").partition("\r\n")
    return int(line.split()[1]), message_from_string(headers), body


def http(line: str, *headers: str, host: str | None = "127.0.0.1", body: bytes = b"") -> bytes:
    named = [f"Host: {host}"] if host is not None else []
    return "\r\n".join([line, *named, "Connection: close", *headers, "", ""]).encode() + body


WITH_TOKEN = "Authorization: Bearer {token}"
JSON = "Content-Type: application/json"
MALFORMED = {
    "request line": (http(f"GET /api/v1/memory/documents/my {CANARY} diary HTTP/1.1"), 400),
    "no request line": (f"{CANARY}\r\n\r\n".encode(), 400),
    "method": (http(f'{{"query":"{CANARY}" / HTTP/1.1'), 400),
    "method of an unknown kind": (http(f"{CANARY.upper()} /api/v1/memory/query HTTP/1.1"), 401),
    "version": (http(f"GET / {CANARY}/1.1"), 400),
    "header without a colon": (http("GET / HTTP/1.1", f"Authorization Bearer {CANARY}"), 400),
    "header's name": (http("GET / HTTP/1.1", f"X {CANARY}: 1"), 400),
    "header's value": (http("GET / HTTP/1.1", f"X-Note: a\x00{CANARY}"), 400),
    "folded header": (http("GET / HTTP/1.1", "X-Note: a", f" {CANARY}"), 400),
    "length": (http("POST / HTTP/1.1", f"Content-Length: {CANARY}"), 400),
    "coding": (http("POST / HTTP/1.1", f"Transfer-Encoding: {CANARY}"), 501),
    "expectation": (http("POST / HTTP/1.1", f"Expect: {CANARY}"), 417),
    "too long a header": (http("GET / HTTP/1.1", f"X-Note: {CANARY * 1000}"), 431),
    "too long a line": (http(f"GET /?{CANARY * 1000} HTTP/1.1"), 414),
    "query": (http(f"GET /api/v1/memory/stats?{CANARY}=1 HTTP/1.1"), 401),
    "host": (http("GET /api/v1/auth/check HTTP/1.1", host=f"{CANARY}.example"), 400),
    "chunk's length": (
        http("POST /api/v1/memory/query HTTP/1.1", JSON, "Transfer-Encoding: chunked", body=f"{CANARY}\r\n".encode()),
        411,
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_request_is_refused_and_no_log_quotes_it(service, kind):
    request, status = MALFORMED[kind]
    before = sizes(service)
    found, headers, body = answer_to(service, request)
    assert found == status
    assert headers["Content-Type"] == "application/problem+json"
    assert (headers["Cache-Control"], headers["Content-Length"]) == ("no-store", str(len(body)))
    problem = json.loads(body)
    assert (problem["status"], PROBLEMS[problem["code"]].status) == (status, status)
    assert problem["request_id"] == headers["X-Request-ID"]
    assert CANARY not in (str(headers) + body.decode()).lower()
    log = written_since(service, before, problem["request_id"])
    assert CANARY not in log.lower()
    assert "ip=" not in log and "127.0.0.1" not in log
    in_access_log = f'"request_id":"{problem["request_id"]}"' in log
    assert ("WARNING] Invalid request (" in log) != in_access_log, "one line says that something was refused"


def test_what_comes_after_a_body_is_not_quoted_either(service):
    """A client that counts characters where bytes are meant sends the rest of one body as its next request."""
    body = f'{{"query": "größer {CANARY}"}}{{"q":"{CANARY}"}}\r\n\r\n'.encode()
    headers = (WITH_TOKEN.format(token=service.token("alice")), JSON, "Content-Length: 10")
    request = http("POST /api/v1/memory/query HTTP/1.1", *headers, body=body).replace(b"Connection: close\r\n", b"")
    before = sizes(service)
    assert answered(service, request)[0] == 400
    log = written_since(service, before, '"status":400')
    assert "Invalid request (" in log
    assert CANARY not in log.lower()


def logs(service) -> list[bytes]:
    """The service's own log, and that of its requests."""
    access = service.var / "log/access.log"
    return [service.log.read_bytes(), access.read_bytes() if access.exists() else b""]


def sizes(service) -> list[int]:
    return [len(log) for log in logs(service)]


def written_since(service, before: list[int], awaited: str = "") -> str:
    """Both logs from there on, once their last line is complete and `awaited` stands in them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (
        not (log := b"".join(log[size:] for log, size in zip(logs(service), before, strict=True)).decode()).endswith(
            "\n"
        )
        or awaited not in log
    ):
        assert time.monotonic() < deadline, f"not logged: {awaited or 'anything'}"
        time.sleep(0.02)
    return log


# Hosts


@pytest.mark.parametrize("path", ["/metrics", "/metrics/memory", "/api/v1/memory/stats", "/api/v1/docs", "/nowhere"])
def test_a_name_that_is_not_ours_reads_nothing_from_loopback_either(service, path):
    token = WITH_TOKEN.format(token=service.token("alice"))
    status, body = answered(service, http(f"GET {path} HTTP/1.1", token, host="evil.example"))
    assert status == 400 and b'"code": "bad_request"' in body
    assert b"evil" not in body
    assert answered(service, http(f"GET {path} HTTP/1.1", token))[0] == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize("path", ["/metrics", "/health/live"])
def test_a_request_names_its_host_once(service, path):
    assert answered(service, http(f"GET {path} HTTP/1.1", host=None))[0] == 400
    assert answered(service, http(f"GET {path} HTTP/1.0", host=None))[0] == 200
    assert answered(service, http("GET /metrics HTTP/1.1", "Host: evil.example"))[0] == 400


def test_a_probe_asks_health_at_any_address(service):
    for path in ("/health/live", "/health/ready"):
        assert answered(service, http(f"GET {path} HTTP/1.1", host="10.1.2.3:8123"))[0] == 200
