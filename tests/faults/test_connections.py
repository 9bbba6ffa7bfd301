"""Clients that only wait, drip or do not say goodbye, many at once: everybody else is served, and health answers.

No proxy stands before the worker here. It has fewer threads than there are such clients.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from contextlib import ExitStack, closing

import pytest

from tests.faults.service import running

THREADS = 8
CLIENTS = 3 * THREADS
PATIENCE_SECONDS = 60
LARGE_ANSWER = b"GET /api/v1/docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture(scope="module")
def service():
    with running(
        GUNICORN_THREADS=str(THREADS), MEMORY_STREAMS_MAX="2", MEMORY_BODY_SECONDS="3", MEMORY_INDEX_SECONDS="60",
        MEMORY_QUERY_SECONDS="30", RERANK_BACKEND="none",
    ) as service:  # fmt: skip
        yield service


@pytest.fixture(scope="module")
def token(service):
    return service.token("alice")


@pytest.fixture(scope="module")
def bystander(service):
    return service.token("bob")


@pytest.fixture
def clients(service):
    """`clients(bytes)`: connections that have sent so much, and go on as the test says."""
    with ExitStack() as stack:

        def connect(sent: bytes, number: int = CLIENTS) -> list[socket.socket]:
            wires = [socket.create_connection(("127.0.0.1", service.port), PATIENCE_SECONDS) for _ in range(number)]
            for wire in wires:
                stack.enter_context(wire)
                wire.sendall(sent)
            return wires

        yield connect


def post(token: str | None, length: int, *, path: str = "memory/index", **headers: str) -> bytes:
    """A request's head; its body is yet to come."""
    lines = [f"POST /api/v1/{path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if not any(line.lower().startswith("content-type") for line in lines):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode()


def answer(wire: socket.socket, *, ends: bool = True) -> tuple[int, dict, bool]:
    """Status and problem document, and whether the server has ended the connection after it, as `ends` expects it.

    Its header must have said the same.
    """
    response = http.client.HTTPResponse(wire)
    response.begin()
    assert (response.headers["Connection"] == "close") is ends
    body = json.loads(response.read() or b"{}")
    wire.settimeout(PATIENCE_SECONDS if ends else 1)
    try:
        return response.status, body, wire.recv(1) == b""
    except TimeoutError:
        return response.status, body, False
    except ConnectionResetError:
        return response.status, body, True


def is_served(service, token: str) -> None:
    assert service.call("GET", "/health/live", token)[0] == 200
    assert service.call("POST", "/api/v1/memory/query", token, {"query": "train"})[0] == 200


def test_connections_that_say_nothing_take_no_thread(service, token, bystander, clients):
    clients(b"")
    started = time.monotonic()
    is_served(service, bystander)
    # gunicorn's own worker waits 5 s for each with a thread: three times over before it serves us.
    assert time.monotonic() - started < 14
    # Nor do those that have asked and stay.
    for wire in clients(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
        assert http.client.HTTPResponse(wire).begin() is None
    is_served(service, bystander)


def test_clients_that_do_not_say_goodbye_hold_up_nobody(service, token, bystander, clients):
    wires = clients(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    started = time.monotonic()
    is_served(service, bystander)
    # gunicorn's own worker waits 2 s for each, one after the other, in the loop that accepts us.
    assert time.monotonic() - started < CLIENTS
    for wire in wires:
        assert answer(wire)[::2] == (200, True)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("memory/index", {}, 401),
        ("memory/nowhere", {"as_alice": "yes"}, 404),
        ("memory/stats", {"as_alice": "yes"}, 405),
        ("memory/index", {"as_alice": "yes", "Content_Type": "text/plain"}, 415),
        ("memory/index", {"as_alice": "yes", "Accept": "text/html"}, 406),
    ],
)
def test_an_answer_before_the_body_ends_the_connection_at_once(
    service, token, bystander, clients, path, headers, status
):
    headers = dict(headers)
    who = token if headers.pop("as_alice", None) else None
    wires = clients(post(who, 900_000, path=path, **headers) + b'{"text": "')
    answers = [answer(wire) for wire in wires]
    assert all(ended for _, _, ended in answers)
    told = {found for found, _, _ in answers}
    # A user has four threads here: of so many at once, some may be told that they are too many.
    assert status in told and told <= {status, 429}
    is_served(service, bystander)


def test_answers_that_nobody_reads_take_no_thread(service, token, bystander, clients):
    wires = clients(b"")
    for wire in wires:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Several, one behind the other: the first may fit into the buffers between us.
        wire.sendall(LARGE_ANSWER * 6)
    for _ in range(5):
        is_served(service, bystander)


def test_a_large_answer_reaches_whoever_reads_it_late(service, token, clients):
    late, prompt = clients(LARGE_ANSWER * 4, 2)
    whole = http.client.HTTPResponse(prompt)
    whole.begin()
    expected = whole.read()
    assert len(expected) > 1_000_000
    time.sleep(1)
    # All that was asked for before the first one that had to wait, whole: the connection ends behind that one.
    stream, number = late.makefile("rb"), 0
    while head := stream.readline():
        assert head.startswith(b"HTTP/1.1 200")
        headers = http.client.parse_headers(stream)
        assert stream.read(int(headers["Content-Length"])) == expected
        number += 1
    assert number >= 1


def test_a_body_without_a_length_ends_the_connection_at_once(service, token, bystander, clients):
    head = post(token, 1000).replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked")
    answers = [answer(wire) for wire in clients(head + b"10000\r\n" + b"x" * 1000)]
    assert {(status, ended) for status, _, ended in answers} == {(411, True)}
    is_served(service, bystander)


def test_a_small_body_that_came_along_with_a_refused_request_keeps_the_connection(service, token, bystander, clients):
    (wire,) = clients(post(None, 2) + b"{}", 1)
    assert answer(wire, ends=False)[::2] == (401, False)
    wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    wire.settimeout(PATIENCE_SECONDS)
    assert answer(wire, ends=False)[0] == 200


def test_a_body_that_drips_is_cut_off_in_time_and_its_user_has_no_more_than_a_share(service, token, bystander, clients):
    dripping = service.token("mallory")
    wires = clients(post(dripping, 1000))
    stop_at = time.monotonic() + 20
    found = []
    while len(found) < CLIENTS and time.monotonic() < stop_at:
        is_served(service, bystander)
        for wire in list(wires):
            try:
                wire.sendall(b"x")
                wire.settimeout(0.01)
                if wire.recv(1, socket.MSG_PEEK):
                    wire.settimeout(PATIENCE_SECONDS)
                    status, body, ended = answer(wire)
                    found.append((status, body["code"], ended))
                    wires.remove(wire)
            except TimeoutError:
                continue
            except OSError:
                found.append(("reset", "", True))
                wires.remove(wire)
    told = {(status, code) for status, code, _ in found} - {("reset", "")}
    assert told <= {(408, "request_timeout"), (429, "too_many_requests_at_once"), (503, "overloaded")}
    assert (429, "too_many_requests_at_once") in told
    assert len(found) == CLIENTS and all(ended for _, _, ended in found)
    assert service.call("POST", "/api/v1/memory/query", dripping, {"query": "train"})[0] == 200


def test_a_slow_body_in_time_is_taken(service, token, bystander, clients):
    body = json.dumps({"doc_id": "slow", "text": "The night train has a dining car."}).encode()
    (wire,) = clients(post(token, len(body)), 1)
    for at in range(0, len(body), 16):
        wire.sendall(body[at : at + 16])
        time.sleep(0.05)
    status, _, ended = answer(wire, ends=False)
    assert (status, ended) == (201, False)


def test_a_client_that_leaves_amid_its_body_is_told_so_and_stores_nothing(service, token, bystander, clients):
    body = json.dumps({"doc_id": "cut", "text": "The night train has a dining car."}).encode()
    (wire,) = clients(post(token, len(body)) + body[:20], 1)
    wire.shutdown(socket.SHUT_WR)
    status, problem, _ = answer(wire)
    assert (status, problem["code"]) == (400, "malformed_json")
    assert service.call("GET", "/api/v1/memory/documents/cut", token)[0] == 404


def test_headers_that_never_end_are_cut_off(service, clients):
    (wire,) = clients(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n", 1)
    with closing(wire):
        ended_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ended_at:
            try:
                wire.sendall(b"X")
                wire.settimeout(0.5)
                if wire.recv(1000) is not None:
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    raise AssertionError("still open")


def test_a_stop_does_not_wait_for_who_says_nothing():
    with running(RERANK_BACKEND="none") as service:
        with socket.create_connection(("127.0.0.1", service.port), PATIENCE_SECONDS):
            started = time.monotonic()
            service.stop()
            # Past 10 s the launcher kills what has not ended.
            assert time.monotonic() - started < 9
