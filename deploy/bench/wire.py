"""One request over a connection of its own, as a hostile or a patient client makes it, and what came of it.

Nothing here needs Django or a test runner: the benches and the fault tests share it.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "/api/v1/"
# When a body that is never whole gets its next byte, and how often its sender looks for an answer.
DRIP_SECONDS, LOOK_SECONDS = 2.0, 0.25
# What a slow reader takes of an answer, and how often.
SIP_BYTES, SIP_SECONDS = 64, 0.1
# What an unfinished answer is called, in place of a problem's code.
CLOSED, HELD, UNANSWERED = "closed", "held", "unanswered"


@dataclass(frozen=True)
class Request:
    """`body` goes out as it is, or as JSON; `headers` stand beside, or in place of, the usual ones."""

    method: str
    path: str
    body: bytes | dict | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def raw_body(self) -> bytes | None:
        return json.dumps(self.body, ensure_ascii=False).encode() if isinstance(self.body, dict) else self.body

    def all_headers(self, token: str | None) -> dict[str, str]:
        headers = {"Content-Type": "application/json"} if self.body is not None else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers | self.headers


@dataclass(frozen=True)
class Answer:
    """`status` is 0 without one: then `code` is CLOSED by the server, UNANSWERED in time, or HELD to the end by us."""

    status: int
    code: str
    retry_after: str | None
    seconds: float

    @property
    def is_refusal(self) -> bool:
        return self.status in (429, 503)

    def __str__(self) -> str:
        return f"{self.status or ''} {self.code}".strip()


def ask(port: int, request: Request, token: str | None, *, timeout_seconds: float) -> Answer:
    """Send the request whole, read the answer whole; `timeout_seconds` for each wait on the way."""
    started = time.monotonic()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)) as connection:
        try:
            # Refused before its body was read: the answer is there all the same.
            with suppress(ConnectionError):
                connection.request(
                    request.method, PREFIX + request.path, request.raw_body(), request.all_headers(token)
                )
            response = connection.getresponse()
            return _answer(response, response.read(), started)
        except TimeoutError:
            return Answer(0, UNANSWERED, None, time.monotonic() - started)
        except (OSError, http.client.HTTPException):
            return Answer(0, CLOSED, None, time.monotonic() - started)


def read_slowly(
    port: int, request: Request, token: str | None, *, stop: threading.Event, timeout_seconds: float
) -> Answer:
    """Send the request whole and sip the answer until it ends or `stop` is set."""
    started = time.monotonic()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)) as connection:
        try:
            connection.connect()
            # What the reader does not take must wait in the server, not here.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.request(request.method, PREFIX + request.path, request.raw_body(), request.all_headers(token))
            response = connection.getresponse()
            if response.status != 200:
                return _answer(response, response.read(), started)
            while not stop.is_set() and response.read1(SIP_BYTES):
                time.sleep(SIP_SECONDS)
            return _answer(response, b"", started)
        except TimeoutError:
            return Answer(0, UNANSWERED, None, time.monotonic() - started)
        except (OSError, http.client.HTTPException):
            return Answer(0, CLOSED, None, time.monotonic() - started)


def drip(port: int, request: Request, token: str | None, *, stop: threading.Event) -> Answer:
    """Send the headers, then the body at a byte every DRIP_SECONDS, whatever is answered, until the server hangs up.

    The request names its own Content-Length. HELD where the connection still stood at `stop` without an answer.
    """
    started, received = time.monotonic(), b""
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.all_headers(token).items())
    head = f"{request.method} {PREFIX}{request.path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
    with closing(socket.socket()) as wire, suppress(OSError):
        wire.settimeout(DRIP_SECONDS)
        wire.connect(("127.0.0.1", port))
        wire.sendall(head.encode())
        wire.settimeout(LOOK_SECONDS)
        sent_at = time.monotonic()
        while not stop.is_set():
            try:
                if not (block := wire.recv(4096)):
                    break
                received += block
            except TimeoutError:
                if time.monotonic() - sent_at >= DRIP_SECONDS:
                    wire.sendall(b"{")
                    sent_at = time.monotonic()
    if not received:
        return Answer(0, HELD if stop.is_set() else CLOSED, None, time.monotonic() - started)
    try:
        response = http.client.HTTPResponse(_Received(received))  # type: ignore[arg-type]
        response.begin()
        return _answer(response, response.read(), started)
    except http.client.HTTPException:
        return Answer(0, CLOSED, None, time.monotonic() - started)


class _Received:
    """Bytes as http.client reads them from a socket."""

    def __init__(self, raw: bytes):
        self._raw = raw

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def mint_tokens(var: Path, users: list[str]) -> list[str]:
    """Tokens of an hour for users of the service over the data folder `var`, which signs with a secret of its own.

    Without a process for each, as `manage.py issue_token` would take.
    """
    from memory.auth.mint import mint
    from r1site.embedded.secrets import read_secret

    secret = read_secret(var / "secrets", "MEMORY_JWT_SECRET")
    ours = {"secret": secret, "algorithm": "HS256", "issuer": "r1-memory", "audience": "r1-memory"}
    return [mint(user, ttl_seconds=3600, **ours) for user in users]


def _answer(response: http.client.HTTPResponse, body: bytes, started: float) -> Answer:
    code = _code(body) if response.status >= 400 else ""
    return Answer(response.status, code, response.getheader("Retry-After"), time.monotonic() - started)


def _code(body: bytes) -> str:
    with suppress(ValueError, AttributeError, TypeError):
        return str(json.loads(body)["code"])
    return ""
