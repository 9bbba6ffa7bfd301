"""The served product: killed outright and started again, and spoken to badly."""

import os
import signal
from contextlib import suppress

import pytest

from tests.faults.service import running

TEXT = "The lighthouse keeper writes down the weather twice a day."


@pytest.fixture(scope="module")
def service():
    # From nothing, as on a new machine.
    with running(is_prepared=False, MEMORY_EMBED_BACKEND="auto") as service:
        yield service


@pytest.fixture(scope="module")
def token(service):
    return service.token("alice")


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:80]
    return int(answer.split()[1])


def head(token: str, *headers: str, path: str = "/api/v1/memory/query", keep: bool = False) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", *headers]
    lines += ["", ""] if keep else ["Connection: close", "", ""]
    return "\r\n".join(lines).encode()


JSON = "Content-Type: application/json"


def test_a_body_without_a_length_is_411_and_an_endless_one_does_not_hold_the_worker(service, token):
    endless = head(token, JSON, "Transfer-Encoding: chunked", keep=True) + b"10000\r\n" + b"x" * 65536
    assert status_of(service.raw(endless)) == 411
    assert service.call("POST", "/api/v1/memory/query", token, {"query": "still there?"})[0] == 200


def test_a_body_over_the_limit_is_413_before_it_is_sent(service, token):
    assert status_of(service.raw(head(token, JSON, "Content-Length: 1000001"))) == 413


def test_a_body_of_exactly_the_limit_is_read(service, token):
    frame = '{"doc_id": "exact", "metadata": {}, "text": ""}'
    body = (frame[:-2] + ("word " * 200_000)[: 1_000_000 - len(frame)] + '"}').encode()
    assert len(body) == 1_000_000
    answer = service.raw(head(token, JSON, f"Content-Length: {len(body)}", path="/api/v1/memory/index") + body)
    assert status_of(answer) == 422
    assert b"too_many_chunks" in answer


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 4", "Transfer-Encoding: chunked"],
        ["Content-Length: 4", "Content-Length: 5"],
        ["Content-Length: -1"],
        ["Content-Length: 4", "X-Folded: a\r\n b"],
        ["Transfer-Encoding: chunked, identity"],
    ],
)
def test_ambiguous_framing_is_refused_and_the_connection_is_not_reused(service, token, headers):
    smuggled = b"GET /api/v1/auth/check HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = service.raw(head(token, JSON, *headers, keep=True) + b"{}\r\n" + smuggled)
    assert status_of(answer) in (400, 411, 501)
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "headers",
    [
        [JSON, "Content-Encoding: gzip"],
        [JSON, "Content-Encoding: deflate, gzip"],
        [JSON, "Content-Encoding: identity"],
        ["Content-Type: application/json; charset=utf-7"],
        ["Content-Type: application/json; charset=utf-16"],
        ["Content-Type: application/json; charset=bz2_codec"],
        ["Content-Type: text/plain"],
        ["Content-Type: application/x-www-form-urlencoded"],
    ],
)
def test_encodings_and_other_media_types_are_415(service, token, headers):
    assert status_of(service.raw(head(token, *headers, "Content-Length: 2") + b"{}")) == 415


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"[" * 100_000, b"nesting_too_deep"),
        (b'{"query":' + b"[" * 990 + b"]" * 990 + b"}", b"nesting_too_deep"),
        (b'{"query": NaN}', b"malformed_json"),
        (b'{"query": 1e999}', b"malformed_json"),
        (b'{"query": ' + b"9" * 5000 + b"}", b"malformed_json"),
        (b'{"query": "a", "query": "b"}', b"malformed_json"),
        (b'\xef\xbb\xbf{"query": "a"}', b"malformed_json"),
        (b'{"query": "\xff"}', b"malformed_json"),
    ],
)
def test_json_that_is_not_json_is_400(service, token, body, code):
    answer = service.raw(head(token, JSON, f"Content-Length: {len(body)}") + body)
    assert status_of(answer) == 400
    assert code in answer


def test_a_header_does_not_move_the_path_that_is_guarded(service):
    for header in ("SCRIPT_NAME: /x", "PATH_INFO: /api/v1/auth/check"):
        lines = ["GET /x/api/v1/auth/check HTTP/1.1", "Host: localhost", header, "Connection: close", "", ""]
        assert status_of(service.raw("\r\n".join(lines).encode())) == 404


def test_everything_killed_at_once_comes_back_with_its_data(service, token):
    status, _ = service.call("POST", "/api/v1/memory/index", token, {"doc_id": "light/house", "text": TEXT})
    assert status == 201
    killed = service.processes()
    assert len(killed) > 3
    for pid in killed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    service.process.wait(10)
    service.wait_until_gone(killed)

    service.start()
    status, stored = service.call("GET", "/api/v1/memory/documents/light/house", token)
    assert (status, stored["text"]) == (200, TEXT)
    status, answer = service.call("POST", "/api/v1/memory/query", token, {"query": "Who writes down the weather?"})
    assert answer["results"][0]["citation"]["quote"] == TEXT
