"""Server-sent events read back, by the rules of the format and not by those of our own writer."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One dispatched event; `comments` are those since the one before it."""

    id: str
    name: str
    data: dict
    comments: tuple[str, ...] = ()


def read_events(raw: bytes) -> list[Event]:
    """WHATWG HTML, 9.2.6: lines end at CR, LF or CRLF; an empty line dispatches; an unfinished event is dropped."""
    events, fields, comments, last_id = [], {}, [], ""
    *lines, _ = re.split(r"\r\n|\n|\r", raw.decode())
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                comments.append(value)
            elif name == "data":
                fields.setdefault("data", []).append(value)
            else:
                fields[name] = value
        elif "data" in fields:
            last_id = fields.get("id", last_id)
            data = json.loads("\n".join(fields["data"]))
            events.append(Event(last_id, fields.get("event", "message"), data, tuple(comments)))
            fields, comments = {}, []
        else:
            fields = {}
    return events


def answer_of(events: list[Event]) -> str:
    return "".join(event.data["delta"] for event in events if event.name == "token")


class StreamReader:
    """A client of POST /api/v1/stream on a socket of its own, that reads as much as it is told to.

    `receive_buffer_bytes` before the connection is made: what a client that stops reading still takes in.
    """

    def __init__(self, port: int, token: str, body: dict, *, receive_buffer_bytes: int | None = None, timeout=60.0):
        self.raw = b""
        wire = socket.socket()
        if receive_buffer_bytes:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        wire.settimeout(timeout)
        wire.connect(("127.0.0.1", port))
        self.wire = wire
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._connection.sock = wire
        headers = {
            "Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "text/event-stream",
        }  # fmt: skip
        self._connection.request("POST", "/api/v1/stream", json.dumps(body), headers)

    def __enter__(self) -> StreamReader:
        return self

    def __exit__(self, *exc_info) -> None:
        self.leave()

    def head(self) -> http.client.HTTPResponse:
        if not hasattr(self, "_response"):
            self._response = self._connection.getresponse()
        return self._response

    def read(self, size: int = 65536) -> bytes:
        """What is there, at most `size` bytes; b"" at the end."""
        block = self.head().read1(size)
        self.raw += block
        return block

    def read_until(self, done: Callable[[list[Event]], bool]) -> list[Event]:
        """Events up to the first read after which `done(events)` holds, or all of them."""
        while not done(read_events(self.raw)) and self.read():
            pass
        return read_events(self.raw)

    def read_all(self) -> list[Event]:
        while self.read():
            pass
        return read_events(self.raw)

    def leave(self) -> None:
        self.wire.close()
        self._connection.close()
        if hasattr(self, "_response"):
            self._response.close()
