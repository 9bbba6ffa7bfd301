"""Requests that leave at planned moments, whatever became of the earlier ones, and what came of each.

A closed loop asks less of a service that is slow, and so leaves out just the waits that users would have had
(coordinated omission). Here request n is due n / rate seconds after the start, and its latency counts from then: it
holds the time that it waited for this process, too. One thread, connections kept alive, as few bytes handled as can be:
the generator shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

# When what has not been answered counts as an error.
ANSWER_LIMIT_SECONDS = 30.0
# What a request without an answer is called in place of a status.
BROKEN = 0


@dataclass(frozen=True)
class Planned:
    """`raw` is the whole request as it goes over the wire; `kind` is what it is counted as."""

    kind: str
    raw: bytes


@dataclass(frozen=True)
class Answered:
    """Of one request: milliseconds from the moment that it was due to the last byte; BROKEN without an answer.

    `due_seconds`: that moment, from the first request's.
    """

    kind: str
    status: int
    took_ms: float
    body: bytes
    due_seconds: float = 0.0

    @property
    def is_error(self) -> bool:
        return self.status not in (200, 201)


def http_request(path: str, token: str, body: bytes) -> bytes:
    """A POST to /api/v1/`path`."""
    head = (
        f"POST /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def http_get(path: str, token: str) -> bytes:
    """A GET of /api/v1/`path`."""
    return f"GET /api/v1/{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def run(
    port: int, rate: float, requests: Sequence[Planned], *, errors_max: int | None = None,
    on_answer: Callable[[int], object] = lambda answers: None,
) -> list[Answered]:  # fmt: skip
    """Send `requests` at `rate` a second; returns once all are answered, given up or broken.

    Past `errors_max` errors no more are sent. `on_answer` is told how many answers there are, after each.
    """
    return asyncio.run(_Load(port, rate, requests, errors_max, on_answer).run())


class _Connection(asyncio.Protocol):
    """One connection, which has one request at a time. The service states each answer's length."""

    def __init__(self):
        self._received = bytearray()
        self._answer: asyncio.Future | None = None
        self.is_open = False

    def connection_made(self, transport) -> None:
        self._transport, self.is_open = transport, True

    def ask(self, raw: bytes) -> asyncio.Future:
        """(status, body) in time."""
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = bytes(self._received[:end]).lower()
        _, _, rest = head.partition(b"content-length:")
        if len(self._received) - end - 4 < int(rest.split(b"\r\n", 1)[0]):
            return
        answer, self._answer = self._answer, None
        if not answer.done():
            answer.set_result((int(head[9:12]), bytes(self._received[end + 4 :])))
        if b"connection: close" in head:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((BROKEN, b""))

    def close(self) -> None:
        self.is_open = False
        self._transport.close()


@dataclass
class _Load:
    port: int
    rate: float
    requests: Sequence[Planned]
    errors_max: int | None
    on_answer: Callable[[int], object]
    idle: list[_Connection] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    errors: int = 0

    async def run(self) -> list[Answered]:
        # A moment for the first connection, so that it is not late by what this takes.
        first_due = time.perf_counter() + 0.02
        under_way: set[asyncio.Task] = set()
        for number, planned in enumerate(self.requests):
            due = first_due + number / self.rate
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            if self.errors_max is not None and self.errors > self.errors_max:
                break
            task = asyncio.create_task(self._one(planned, due, due - first_due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        while under_way:
            await asyncio.wait(under_way)
        for connection in self.idle:
            connection.close()
        return self.answers

    async def _one(self, planned: Planned, due: float, due_seconds: float) -> None:
        status, body = BROKEN, b""
        with suppress(OSError):
            connection = await self._connection()
            try:
                status, body = await asyncio.wait_for(connection.ask(planned.raw), ANSWER_LIMIT_SECONDS)
            except TimeoutError:
                connection.close()
            if connection.is_open:
                self.idle.append(connection)
        took_ms = (time.perf_counter() - due) * 1_000
        self.answers.append(Answered(planned.kind, status, took_ms, body, due_seconds))
        self.errors += self.answers[-1].is_error
        self.on_answer(len(self.answers))

    async def _connection(self) -> _Connection:
        """The one that was used last, which its server is least likely to have closed; else a new one."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        return connection
