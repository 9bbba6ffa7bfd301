"""The first look at a request: its id, and whether its body may come in at all.

Everything here is decided from the headers, before a byte of the body is read, before the token is
looked at and before anything touches the database. The identity of the caller is not read here;
`X-User-Id` and its like are read nowhere.

A body that nobody has read is not waited for: after the answer the connection ends, unless the body has arrived
already, as the few hundred bytes of a refused request mostly have. gunicorn would read up to 64 KiB of it for up to
5 s, and look at the time only between reads of 1,024 bytes: a sender of one byte every few seconds kept its thread
for an hour. Two lengths, a length beside Transfer-Encoding and malformed chunks are refused by gunicorn's own parser,
with 400, before any middleware runs.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from memory.admission.deadline import arrived_at
from memory.errors import LengthRequired, MemoryServiceError, PayloadTooLarge, UnsupportedMediaType
from r1site.problems import problem_response

API_PREFIX = "/api/"
JSON_MEDIA_TYPE = "application/json"
# Probes ask at whatever address the host or its container has.
PROBED_PATHS = frozenset(f"{prefix}/health/{name}" for prefix in ("", "/api/v1") for name in ("live", "ready"))

# More than this is not worth reading to keep a connection.
DRAIN_MAX_BYTES = 64 * 1024

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
        request.started_at = arrived_at()  # type: ignore[attr-defined]
        request.is_body_read = False  # type: ignore[attr-defined]
        request.request_id = _request_id(request)  # type: ignore[attr-defined]
        try:
            _check_host(request)
            _check_body_headers(request)
        except (SuspiciousOperation, BadRequest, MemoryServiceError) as refusal:
            response: HttpResponseBase = problem_response(request, refusal)
        else:
            response = self.get_response(request)
        response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        if not request.is_body_read and not _has_drained(request):  # type: ignore[attr-defined]
            _hang_up_when_sent(request)
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


def _has_drained(request: HttpRequest) -> bool:
    """Whether nothing of the request's body is left on the connection, having read what had arrived of it."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if request.META.get("HTTP_TRANSFER_ENCODING") or not _DIGITS.fullmatch(length):
        return False
    length_bytes = int(length)
    connection = request.META.get("gunicorn.socket")
    if length_bytes == 0 or connection is None:
        return True
    if length_bytes > DRAIN_MAX_BYTES:
        return False
    timeout_seconds = connection.gettimeout()
    try:
        connection.setblocking(False)
        return len(request.META["wsgi.input"].read(length_bytes)) == length_bytes
    except OSError:
        # Not all of it is here yet.
        return False
    finally:
        with contextlib.suppress(OSError):
            connection.settimeout(timeout_seconds)


def _hang_up_when_sent(request: HttpRequest) -> None:
    """Have gunicorn close an HTTP/1 connection after the answer, by its own mark of a body whose end is lost.

    What the client still sends is taken off its hands for a moment, so that it can read its answer before the reset:
    by r1site/gunicorn_worker.py, in no thread that serves.
    """
    body = request.META.get("wsgi.input")
    if body is not None and hasattr(body, "failed"):
        body.failed = True
        # Ours (r1site/gunicorn_worker.py): so that the answer's header says so too.
        getattr(body, "end_connection", lambda: None)()
