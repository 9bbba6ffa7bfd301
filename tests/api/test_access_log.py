"""The access log: one line of JSON a request, with what it is allowed to hold and nothing else."""

import json
import logging

import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory

from r1site.access_log import AccessLogMiddleware

pytestmark = pytest.mark.django_db(transaction=True)

FIELDS = {
    *("time", "request_id", "method", "route", "status", "duration_ms"),
    *("request_bytes", "response_bytes", "user"),
}


@pytest.fixture
def lines():
    """The access log's lines so far, parsed, by a handler of its own: the logger does not propagate."""
    found = []

    class Keep(logging.Handler):
        def emit(self, record):
            found.append(json.loads(record.getMessage()))

    handler, logger = Keep(), logging.getLogger("r1.access")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_a_request_is_one_line_of_the_allowed_fields(alice, lines):
    body = {"doc_id": "secret/plan", "text": "The canary sings."}
    answer = alice.post("memory/index?topic=canary", body, **{"x-request-id": "r-1"})
    (line,) = lines
    assert set(line) == FIELDS
    assert line["time"].endswith("Z") and line["duration_ms"] > 0
    assert {name: line[name] for name in FIELDS - {"time", "duration_ms"}} == {
        "request_id": "r-1",
        "method": "POST",
        "route": "/api/v1/memory/index",
        "status": 201,
        "request_bytes": len(json.dumps(body)),
        "response_bytes": len(answer.content),
        "user": alice.user_hash[:16],
    }


def test_the_route_is_the_pattern_and_holds_no_document_id(alice, lines):
    alice.get("memory/documents/secret/plan")
    assert (lines[0]["route"], lines[0]["status"]) == ("/api/v1/memory/documents/<anypath:doc_id>", 404)
    assert "secret" not in json.dumps(lines)


def test_an_address_that_does_not_exist_has_no_route(alice, lines):
    alice.get("memory/canary")
    assert (lines[0]["route"], lines[0]["status"]) == (None, 404)
    assert "canary" not in json.dumps(lines)


def test_what_is_refused_before_the_view_is_logged_too(lines):
    address = "/api/v1/memory/documents/secret"
    Client().get(address)
    Client().post("/api/v1/memory/index", "x", content_type="text/plain")
    Client().post("/api/v1/memory/index", content_type="application/json", headers={"content-length": "1000001"})
    Client().generic("CANARY", address)
    assert [(line["status"], line["user"], line["method"]) for line in lines] == [
        *((401, None, "GET"), (415, None, "POST"), (413, None, "POST")),
        (401, None, "other"),
    ]
    assert {line["route"] for line in lines} == {
        *("/api/v1/memory/documents/<anypath:doc_id>", "/api/v1/memory/index"),
    }


@pytest.mark.parametrize(("length", "logged"), [("12", 12), ("", None), ("-1", None), ("١٢", None), ("9" * 20, None)])
def test_a_length_that_is_none_is_not_logged(lines, length, logged):
    Client().post("/api/v1/memory/query", content_type="application/json", CONTENT_LENGTH=length)
    assert lines[0]["request_bytes"] == logged


def streamed(parts):
    request = RequestFactory().get("/api/v1/auth/check")
    return AccessLogMiddleware(lambda _: StreamingHttpResponse(parts))(request)


def test_an_answer_is_logged_once_when_it_has_gone(lines):
    response = AccessLogMiddleware(lambda _: HttpResponse(b"whole"))(RequestFactory().get("/api/v1/auth/check"))
    assert lines == []
    response.close()
    response.close()
    assert [line["response_bytes"] for line in lines] == [5] and response.closed


def test_a_stream_is_logged_once_when_it_has_ended(lines):
    response = streamed(iter([b"one", b"three"]))
    assert b"".join(response) == b"onethree"
    assert lines == []
    response.close()
    response.close()
    assert [(line["response_bytes"], "aborted" in line) for line in lines] == [(8, False)]


def test_a_stream_whose_client_left_is_aborted_and_its_generator_closed(lines):
    closed = []

    def parts():
        try:
            yield b"one"
            yield b"three"
        finally:
            closed.append(True)

    response = streamed(parts())
    assert next(iter(response)) == b"one"
    response.close()
    assert [(line["response_bytes"], line["aborted"], line["status"]) for line in lines] == [(3, True, 200)]
    assert closed == [True]


def test_a_stream_that_breaks_is_aborted(lines):
    def parts():
        yield b"one"
        raise RuntimeError

    response = streamed(parts())
    with pytest.raises(RuntimeError):
        b"".join(response)
    response.close()
    assert [line["aborted"] for line in lines] == [True]
