"""The first look at a request: its id, and whether its body may come in at all.

Everything here is decided from the headers, before a byte of the body is read, before the token is
looked at and before anything touches the database. The identity of the caller is not read here;
`X-User-Id` and its like are read nowhere.

What gunicorn 27 (gthread) does with a body that nobody reads: it sends the answer, drops the
response's own `Connection` header, then `ThreadWorker._keepalive_after` calls `Parser.finish_body`,
which reads up to 64 KiB for up to 5 s and closes the connection unless that was the whole body. So
the next request is never read from the middle of a body. But the deadline is only looked at between
reads of 1,024 bytes, each of which waits for as many `recv` calls as it takes: a sender of one byte
every few seconds keeps the thread for an hour, and `close_graceful` then lingers 2 s in the worker's
accept loop. Hence `_hang_up`: after a refusal here the connection ends within LINGER_SECONDS.
Two lengths, a length beside Transfer-Encoding and malformed chunks are refused by gunicorn's own
parser, with 400, before any middleware runs.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
import uuid
from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from memory.errors import LengthRequired, MemoryServiceError, PayloadTooLarge, UnsupportedMediaType
from r1site.problems import problem_response

API_PREFIX = "/api/"
JSON_MEDIA_TYPE = "application/json"
# Probes ask at whatever address the host or its container has.
PROBED_PATHS = frozenset(f"{prefix}/health/{name}" for prefix in ("", "/api/v1") for name in ("live", "ready"))

# Long enough for a client on the other side of the world to read its answer before the reset.
LINGER_SECONDS = 0.5
LINGER_MAX_BYTES = 64 * 1024

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGITS = re.compile(r"[0-9]{1,19}")


class RequestLimitsMiddleware:
    """Sets `request.request_id`, echoes it as `X-Request-ID`, and refuses bodies it should not read.

    An answer that says nothing about caches goes out with `Cache-Control: no-store`.

    A client's own `X-Request-ID` of 1-64 characters A-Z a-z 0-9 . _ - is kept, else 32 hex digits
    are made. A `Host` that is not among `ALLOWED_HOSTS` is 400, but for the probes of health, as is
    HTTP/1.1 without one. Bodies, in this order: Transfer-Encoding without a length 411, an impossible
    Content-Length 400, one over `MEMORY_MAX_BODY_BYTES` 413, any Content-Encoding (`identity`
    too) 415 and, under /api/, anything but application/json in UTF-8 415. It stands before everything
    that looks at a request in MIDDLEWARE.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.request_id = _request_id(request)  # type: ignore[attr-defined]
        try:
            _check_host(request)
            _check_body_headers(request)
        except (SuspiciousOperation, BadRequest, MemoryServiceError) as refusal:
            response: HttpResponseBase = problem_response(request, refusal)
            _hang_up_when_sent(request, response)
        else:
            response = self.get_response(request)
        response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        # No proxy and no browser keeps an answer but those that say themselves how long they may be kept.
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _request_id(request: HttpRequest) -> str:
    offered = request.META.get("HTTP_X_REQUEST_ID", "")
    return offered if _REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex


def _check_host(request: HttpRequest) -> None:
    """Raises DisallowedHost or BadRequest, so that a page under another name that resolves to us reads nothing."""
    # RAW_URI: gunicorn has read the request. Django's test client leaves the header out where the host is its own.
    if "RAW_URI" in request.META and request.META["SERVER_PROTOCOL"] != "HTTP/1.0" and "HTTP_HOST" not in request.META:
        raise BadRequest("no Host (RFC 9112, section 3.2)")
    if request.path_info not in PROBED_PATHS:
        request.get_host()


def _check_body_headers(request: HttpRequest) -> None:
    is_api = request.path_info.startswith(API_PREFIX)
    length = request.META.get("CONTENT_LENGTH") or ""
    if request.META.get("HTTP_TRANSFER_ENCODING"):
        if not length:
            raise LengthRequired
        raise BadRequest("both a length and a transfer coding")
    if length and not _DIGITS.fullmatch(length):
        raise BadRequest("not a length")
    length_bytes = int(length or 0)
    if length_bytes > settings.MEMORY_MAX_BODY_BYTES:
        raise PayloadTooLarge(f"The request body is over {settings.MEMORY_MAX_BODY_BYTES:,} bytes.")
    may_have_body = length_bytes > 0 or request.method in ("POST", "PUT", "PATCH")
    if may_have_body and request.META.get("HTTP_CONTENT_ENCODING", "").strip():
        raise UnsupportedMediaType
    if is_api:
        _check_content_type(request.META.get("CONTENT_TYPE") or "", has_body=length_bytes > 0)


def _check_content_type(content_type: str, *, has_body: bool) -> None:
    """Raises UnsupportedMediaType; the charset even without a body, as Django decodes query strings with it."""
    media_type, *parameters = content_type.split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise UnsupportedMediaType
    if has_body and media_type.strip().lower() != JSON_MEDIA_TYPE:
        raise UnsupportedMediaType


def _hang_up_when_sent(request: HttpRequest, response: HttpResponseBase) -> None:
    """End an HTTP/1 connection once the server has sent `response`, which is when it closes it (PEP 3333)."""
    connection = request.META.get("gunicorn.socket")
    if connection is None or not request.META.get("SERVER_PROTOCOL", "").startswith("HTTP/1."):
        return
    body = request.META.get("wsgi.input")
    close = response.close

    def close_and_hang_up() -> None:
        close()
        _hang_up(connection)
        # gunicorn's mark of a body whose end is lost: it must not look for chunks in what is left
        # of this one, as its error log quotes the bytes it finds instead.
        if hasattr(body, "failed"):
            body.failed = True

    response.close = close_and_hang_up  # type: ignore[method-assign]


def _hang_up(connection: socket.socket) -> None:
    """The closing of RFC 9112, section 9.6, within LINGER_SECONDS; later reads by the server end at once."""
    deadline = time.monotonic() + LINGER_SECONDS
    left_bytes = LINGER_MAX_BYTES
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while left_bytes > 0 and (left_seconds := deadline - time.monotonic()) > 0:
            connection.settimeout(left_seconds)
            received_bytes = len(connection.recv(4096))
            if not received_bytes:
                break
            left_bytes -= received_bytes
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
