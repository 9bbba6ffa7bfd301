"""The first look at a request: its id, and whether its body may come in at all.

Everything here is decided from the headers, before a byte of the body is read, before the token is
looked at and before anything touches the database. The identity of the caller is not read here;
`X-User-Id` and its like are read nowhere.

What becomes of a body that nobody reads (gunicorn 27, gthread workers): the answer is sent, then
`ThreadWorker._keepalive_after` calls `Parser.finish_body`, which reads and drops at most 64 KiB for
at most 5 s. Only where that reached the body's end is the connection used again; else it is closed,
lingering for another 64 KiB or 2 s so that the client can read the answer (RFC 9112, section 9.6).
So a refusal here cannot leave half a body to be taken for the next request, and an endless sender
costs a thread 64 KiB; there is nothing to add. `Connection: close` could not be: gunicorn drops it.
Two lengths, a length beside Transfer-Encoding and malformed chunks are refused by its own parser,
with 400, before any middleware runs.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import BadRequest
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from memory.errors import LengthRequired, MemoryServiceError, PayloadTooLarge, UnsupportedMediaType
from r1site.problems import problem_response

API_PREFIX = "/api/"
JSON_MEDIA_TYPE = "application/json"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGITS = re.compile(r"[0-9]{1,19}")


class RequestLimitsMiddleware:
    """Sets `request.request_id`, echoes it as `X-Request-ID`, and refuses bodies it should not read.

    A client's own `X-Request-ID` of 1-64 characters A-Z a-z 0-9 . _ - is kept, else 32 hex digits
    are made. Bodies, in this order: Transfer-Encoding without a length 411, an impossible
    Content-Length 400, one over `MEMORY_MAX_BODY_BYTES` 413, any Content-Encoding 415 and, under
    /api/, anything but application/json in UTF-8 415. It stands first in MIDDLEWARE.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.request_id = _request_id(request)  # type: ignore[attr-defined]
        try:
            _check_body_headers(request)
        except (BadRequest, MemoryServiceError) as refusal:
            response: HttpResponseBase = problem_response(request, refusal)
        else:
            response = self.get_response(request)
        response["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
        return response


def _request_id(request: HttpRequest) -> str:
    offered = request.META.get("HTTP_X_REQUEST_ID", "")
    return offered if _REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex


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
    if length_bytes or request.method in ("POST", "PUT", "PATCH"):
        encoding = request.META.get("HTTP_CONTENT_ENCODING", "")
        if encoding.strip().lower() not in ("", "identity"):
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
