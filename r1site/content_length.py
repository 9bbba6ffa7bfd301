"""How long an answer is: said in its header, and nothing of it sent where only the header was asked for."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase

# RFC 9110, section 8.6: none on 1xx and 204; 304 would name the length of an answer that is not made.
_WITHOUT_LENGTH = frozenset({204, 304})


class ContentLengthMiddleware:
    """Sets `Content-Length` on every answer but streamed ones, and leaves out the body of an answer to HEAD.

    Without a length the server sends answers in chunks. Views answer HEAD as they do GET, so its length is GET's.
    Stands outside of whatever may still change a body. Not Django's CommonMiddleware, which asks for the host of
    probes as well, that may ask at any address.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if response.streaming or response.status_code in _WITHOUT_LENGTH:
            return response
        response.headers.setdefault("Content-Length", str(len(response.content)))  # type: ignore[attr-defined]
        if request.method == "HEAD":
            response.content = b""  # type: ignore[attr-defined]
        return response
