"""The first look at a request: decided from the headers, with the body still unread."""

from __future__ import annotations

import json
import re
import socket

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import SocketUnreader

from r1site.request_limits import DRAIN_MAX_BYTES, RequestLimitsMiddleware


class UnreadableBody:
    """A body that fails the test when anyone reads it."""

    def read(self, *args):
        raise AssertionError("the body was read")

    readline = read


class Seen:
    """The rest of the service: remembers the request that came through."""

    def __init__(self):
        self.request = None

    def __call__(self, request):
        self.request = request
        return HttpResponse("through")


def ask(method="POST", path="/api/v1/memory/index", **environ):
    """The middleware's answer to a request of which only the headers are looked at, and the request if it passed."""
    environ.setdefault("CONTENT_TYPE", "application/json")
    request = RequestFactory().generic(method, path, **environ)
    request.META.pop("CONTENT_LENGTH", None)
    request.META.update(environ)
    request._stream = UnreadableBody()
    seen = Seen()
    response = RequestLimitsMiddleware(seen)(request)
    assert response["X-Request-ID"] == request.request_id
    if seen.request is None:
        assert json.loads(response.content)["request_id"] == request.request_id
        return response.status_code, json.loads(response.content)["code"]
    return response.status_code, "through"


@pytest.fixture(autouse=True)
def a_limit_of_one_million_bytes(settings):
    settings.MEMORY_MAX_BODY_BYTES = 1_000_000


def test_a_json_body_within_the_limit_passes_unread():
    assert ask(CONTENT_LENGTH="1000000") == (200, "through")
    assert ask(CONTENT_LENGTH="0") == (200, "through")
    assert ask(CONTENT_LENGTH="") == (200, "through")
    assert ask() == (200, "through")


@pytest.mark.parametrize("length", ["1000001", "9" * 19])
def test_a_longer_body_is_refused_unread(length):
    assert ask(CONTENT_LENGTH=length) == (413, "payload_too_large")
    assert ask("GET", CONTENT_LENGTH=length) == (413, "payload_too_large")
    assert ask(path="/admin/login/", CONTENT_LENGTH=length) == (413, "payload_too_large")


@pytest.mark.parametrize("length", ["-1", "+1", "1e3", "0x10", "1,1", " 1", "1_0", "²", "٣", "abc", "9" * 20])
def test_a_length_that_is_no_length_is_a_bad_request(length):
    assert ask(CONTENT_LENGTH=length) == (400, "bad_request")


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.parametrize("coding", ["chunked", "gzip, chunked", "identity"])
def test_a_body_without_length_is_refused(method, coding):
    assert ask(method, HTTP_TRANSFER_ENCODING=coding) == (411, "length_required")


def test_two_ways_to_end_a_body_are_a_bad_request():
    assert ask(HTTP_TRANSFER_ENCODING="chunked", CONTENT_LENGTH="5") == (400, "bad_request")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "identity", " Identity ", "identity, gzip", "x"])
def test_an_encoded_body_is_refused(encoding):
    assert ask(CONTENT_LENGTH="5", HTTP_CONTENT_ENCODING=encoding) == (415, "unsupported_media_type")
    assert ask("DELETE", CONTENT_LENGTH="5", HTTP_CONTENT_ENCODING=encoding) == (415, "unsupported_media_type")


def test_a_body_as_it_is_passes():
    assert ask(CONTENT_LENGTH="5", HTTP_CONTENT_ENCODING="") == (200, "through")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json; Charset="UTF-8"',
        "application/json; charset=utf8; profile=x",
    ],
)
def test_json_in_utf8_passes(content_type):
    assert ask(CONTENT_LENGTH="5", CONTENT_TYPE=content_type) == (200, "through")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/problem+json",
        "text/plain, application/json",
        "application/json; charset=utf-7",
        "application/json; charset=utf-16",
        "application/json; charset=bz2_codec",
        "application/json; charset=latin-1",
        "application/json; charset=",
        "application/json; charset=utf-8; charset=utf-16",
    ],
)
def test_anything_else_is_no_media_type_of_ours(content_type):
    assert ask(CONTENT_LENGTH="5", CONTENT_TYPE=content_type) == (415, "unsupported_media_type")


def test_a_charset_is_refused_even_without_a_body():
    assert ask("GET", CONTENT_TYPE="text/plain; charset=bz2_codec") == (415, "unsupported_media_type")
    assert ask("GET", CONTENT_TYPE="text/plain") == (200, "through")


def test_forms_outside_the_api_pass():
    form = "application/x-www-form-urlencoded"
    assert ask(path="/admin/login/", CONTENT_LENGTH="5", CONTENT_TYPE=form) == (200, "through")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.1, evil.example", "a b", ""])
@pytest.mark.parametrize("path", ["/api/v1/memory/documents", "/metrics", "/api/v1/health/live/", "/nowhere"])
def test_another_host_is_a_bad_request_that_is_not_told_its_name(settings, host, path):
    settings.ALLOWED_HOSTS = ["127.0.0.1"]
    request = RequestFactory().get(path, REMOTE_ADDR="127.0.0.1", HTTP_HOST=host)
    seen = Seen()
    response = RequestLimitsMiddleware(seen)(request)
    assert (seen.request, response.status_code) == (None, 400)
    assert json.loads(response.content)["code"] == "bad_request"
    assert "evil" not in response.content.decode() + str(response.headers)


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/api/v1/health/live", "/api/v1/health/ready"])
def test_a_probe_asks_health_at_any_address(settings, path):
    settings.ALLOWED_HOSTS = ["memory.example.org"]
    assert RequestLimitsMiddleware(Seen())(RequestFactory().get(path, HTTP_HOST="10.1.2.3:8123")).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8123", "MEMORY.example.org"])
def test_a_host_of_ours_passes(settings, host):
    settings.ALLOWED_HOSTS = ["127.0.0.1", "memory.example.org"]
    assert RequestLimitsMiddleware(Seen())(RequestFactory().get("/metrics", HTTP_HOST=host)).status_code == 200


def refused(length: int, sent: bytes) -> Body:
    """gunicorn's body of a request that was refused unread, of which `sent` had arrived."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        body = Body(LengthReader(SocketUnreader(ours), length))
        request = RequestFactory().post("/api/v1/memory/index", content_type="text/plain")
        request.META |= {"CONTENT_LENGTH": str(length), "wsgi.input": body, "gunicorn.socket": ours}
        assert RequestLimitsMiddleware(Seen())(request).status_code == 415
        assert ours.gettimeout() is None
        return body


@pytest.mark.parametrize("sent", [b"", b"x", b"x" * 999])
def test_a_body_that_nobody_read_and_that_has_not_arrived_ends_the_connection(sent):
    assert refused(1000, sent).failed


def test_a_long_body_that_nobody_read_ends_the_connection_unread():
    body = refused(DRAIN_MAX_BYTES + 1, b"x" * 100_000)
    assert body.failed and body.reader.length == DRAIN_MAX_BYTES + 1


def test_a_body_that_has_arrived_is_taken_off_the_connection_which_goes_on():
    body = refused(1000, b"x" * 1000 + b"GET / HTTP/1.1")
    assert not body.failed and body.read() == b""


def test_a_body_without_a_length_ends_the_connection():
    request = RequestFactory().post("/api/v1/memory/index", HTTP_TRANSFER_ENCODING="chunked")
    request.META.pop("CONTENT_LENGTH", None)
    request.META["wsgi.input"] = body = Body(LengthReader(None, 0))
    assert RequestLimitsMiddleware(Seen())(request).status_code == 411
    assert body.failed


def test_a_request_that_passes_keeps_its_connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = RequestFactory().get("/api/v1/memory/documents")
        request.META["gunicorn.socket"] = ours
        RequestLimitsMiddleware(Seen())(request).close()
        theirs.settimeout(10)
        ours.sendall(b"next")
        assert theirs.recv(4) == b"next"


@pytest.mark.parametrize("offered", ["a", "A-b_c.9", "x" * 64])
def test_a_sane_request_id_is_kept(offered):
    request = RequestFactory().get("/", headers={"X-Request-ID": offered})
    assert RequestLimitsMiddleware(Seen())(request)["X-Request-ID"] == offered


@pytest.mark.parametrize("offered", ["", "x" * 65, "a b", "a,b", "é", "a\r\nSet-Cookie: x=1", "a\n", "<script>", "{}"])
def test_any_other_request_id_is_replaced(offered):
    request = RequestFactory().get("/")
    request.META["HTTP_X_REQUEST_ID"] = offered
    made = [RequestLimitsMiddleware(Seen())(request)["X-Request-ID"] for _ in range(2)]
    assert made[0] != made[1]
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in made)
