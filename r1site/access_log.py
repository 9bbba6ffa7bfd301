"""One line of JSON for each request on the logger `r1.access`, holding what is named here and nothing else.

    {"time", "request_id", "method", "route", "status", "duration_ms", "request_bytes", "response_bytes", "user",
     "aborted"?}

`route` is the URL pattern, never the path, in which document ids stand; null where no address matches. `user` is
the first 16 hex digits of the user's hash, null without a verified token. `request_bytes` is the
announced length, `response_bytes` what was given to the server to send; `duration_ms` ends where the server has the
answer, of a streamed one where it ends. The line is written after the answer has gone, for which no client waits; that
of a streamed one has `aborted: true` where its client left before its end. No content, user id, query string or address
of a client; `request_id` may be the client's own `X-Request-ID`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import cast

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve

from memory.security import hmac_user
from r1site.once_closed import once_closed

logger = logging.getLogger("r1.access")

USER_HEX_DIGITS = 16
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class AccessLogMiddleware:
    """Stands first in MIDDLEWARE, so that whatever another one refuses is logged too.

    A request that gunicorn's own parser refuses never gets here (r1site/gunicorn_worker.py).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse | StreamingHttpResponse]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = time.perf_counter()
        response = self.get_response(request)
        if isinstance(response, StreamingHttpResponse):
            _Watched(request, response, started)
        else:
            seconds, sent_bytes = time.perf_counter() - started, len(response.content)
            once_closed(response, lambda: _log(request, response, seconds, sent_bytes))
        return response


class _Watched:
    """A streamed body, counted as it goes out; its request is logged once, when the server closes the response."""

    def __init__(self, request: HttpRequest, response: StreamingHttpResponse, started: float):
        self._request, self._response, self._started = request, response, started
        # None of ours is asynchronous.
        self._parts = iter(cast(Iterator[bytes], response.streaming_content))
        self._sent_bytes = 0
        self._ended = False
        response.streaming_content = self
        once_closed(response, self._log)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            part = next(self._parts)
        except StopIteration:
            self._ended = True
            raise
        self._sent_bytes += len(part)
        return part

    def _log(self) -> None:
        seconds = time.perf_counter() - self._started
        _log(self._request, self._response, seconds, self._sent_bytes, aborted=not self._ended)


def _log(
    request: HttpRequest, response: HttpResponseBase, seconds: float, sent_bytes: int, *, aborted: bool = False
) -> None:
    length = request.META.get("CONTENT_LENGTH") or ""
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": getattr(request, "request_id", None),
        "method": request.method if request.method in _METHODS else "other",
        "route": _route(request),
        "status": response.status_code,
        "duration_ms": round(seconds * 1000, 3),
        "request_bytes": int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None,
        "response_bytes": sent_bytes,
        "user": _user(request),
    }
    if aborted:
        entry["aborted"] = True
    logger.info("%s", json.dumps(entry, separators=(",", ":")))


def _route(request: HttpRequest) -> str | None:
    match = request.resolver_match
    if match is None:
        # Refused before its address was looked up.
        try:
            match = resolve(request.path_info)
        except Resolver404:
            return None
    return f"/{match.route}"


def _user(request: HttpRequest) -> str | None:
    token = getattr(request, "verified_token", None)
    return hmac_user(token.user_id)[:USER_HEX_DIGITS] if token else None
