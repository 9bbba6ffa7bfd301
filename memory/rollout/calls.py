"""HTTP as a canary run needs it: one call, its status and its body, over http or https, within a time."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10.0
# What a probe reads of an answer: an export of a test user's memory, or a page of metrics.
BODY_MAX_BYTES = 16_000_000


class Unreachable(Exception):
    """Nobody answered there, or not in HTTP; the message says where and how."""


class Answer(NamedTuple):
    status: int
    body: bytes

    def json(self) -> Any:
        """The body's JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like others: no token follows it to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def call(
    url: str, *, method: str = "GET", token: str = "", body: Any = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> Answer:
    """Whatever answers at `url`, of any status. `body` goes as JSON. Raises Unreachable."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unreachable(f"{url} is no http or https address")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    raw = None
    if body is not None:
        raw = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    try:
        request = urllib.request.Request(url, raw, headers, method=method)
        with _opener.open(request, timeout=timeout_seconds) as response:
            return Answer(response.status, response.read(BODY_MAX_BYTES))
    except urllib.error.HTTPError as exc:
        with exc:
            return Answer(exc.code, exc.read(BODY_MAX_BYTES))
    except (OSError, ValueError, http.client.HTTPException) as exc:
        reason = getattr(exc, "reason", None) or exc
        raise Unreachable(f"{urlsplit(url).netloc} does not answer ({reason})") from None
