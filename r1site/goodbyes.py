"""The ends of connections, said by one thread for all of them: no other waits for a client that only has to go.

A refusal may also leave late: who comes back at once after each refusal, with forty callers, would have the worker do
little else than refuse him. His refusals then wait here, where a wait costs a socket and no thread. So does the rest of
an answer whose client does not read it.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.conf import settings
from gunicorn import util

from memory.admission.refusals import LATE

# Long enough for a client on the other side of the world to read its answer before the reset.
LINGER_SECONDS = 0.5
LINGER_MAX_BYTES = 64 * 1024
# Past this many at once, connections are reset at once.
LINGERING_MAX = 512
# How much of all answers waits for readers, who have MEMORY_SEND_SECONDS; past it the one that has waited longest is
# cut.
SENDING_MAX_BYTES = 64 * 1024 * 1024
# Past this many no answer waits: one user's refusals must not take the others' moment.
LATE_MAX = 256


@dataclass(frozen=True)
class LateAnswer:
    """The bytes of an answer, or the rest of it, and when to send them on the `time.monotonic()` clock."""

    at: float
    content: bytes


class AnswersLate(Exception):
    """Raised through gunicorn in place of an answer that it would send now."""

    def __init__(self, answer: LateAnswer):
        super().__init__()
        self.answer = answer


def answering_late(application: Callable) -> Callable:
    """The WSGI application, with answers that are to leave late (environ's LATE) raised as AnswersLate."""

    def call(environ: dict, start_response: Callable) -> Iterable[bytes]:
        said: list = []

        def remember(status: str, headers: list[tuple[str, str]], exc_info=None):
            if LATE not in environ:
                return start_response(status, headers, exc_info)
            said[:] = status, headers
            return None

        body = application(environ, remember)
        if (seconds := environ.get(LATE)) is None:
            return body
        try:
            content = head_of(*said) + b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()
        raise AnswersLate(LateAnswer(time.monotonic() + seconds, content))

    return call


def head_of(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Status line and headers of an answer after which the connection ends."""
    kept = [f"{name}: {value}" for name, value in headers if name.lower() not in ("connection", "date")]
    lines = [f"HTTP/1.1 {status}", f"Date: {util.http_date()}", "Connection: close", *kept, "", ""]
    return "\r\n".join(lines).encode("latin-1")


class Goodbyes:
    """The closing of RFC 9112, section 9.6: what a client still sends is read for a moment, and thrown away.

    Else the reset that answers it could overtake our answer. A late answer is sent first, when its time has come.
    """

    def __init__(self):
        self._arriving: queue.SimpleQueue[tuple[socket.socket, LateAnswer | None] | None] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._count = 0
        self._is_finishing = False
        # In the order of their ends, since all stay as long: when, and how much may still be read.
        self._ends: dict[socket.socket, list[float]] = {}
        self._late: dict[socket.socket, LateAnswer] = {}
        # Longest first: until when, and what is still to be sent.
        self._sending: dict[socket.socket, tuple[float, memoryview]] = {}
        threading.Thread(target=self._run, name="goodbyes", daemon=True).start()

    def add(self, connection: socket.socket, late: LateAnswer | None = None) -> None:
        """Send `late` when its time has come, then close `connection` in a while; never waits."""
        is_full = self._count >= (LINGERING_MAX if late is None else LATE_MAX)
        try:
            connection.setblocking(False)
            if late is not None and is_full:
                connection.send(late.content)
            if late is None or is_full:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        if is_full:
            connection.close()
            return
        self._count += 1
        self._arriving.put((connection, late))
        self._wake_writer.send(b"\0")

    def finish(self) -> None:
        """At the worker's end: what is late leaves now. Waits until all have gone, LINGER_SECONDS and a little more."""
        self._arriving.put(None)
        self._wake_writer.send(b"\0")
        until = time.monotonic() + 2 * LINGER_SECONDS
        while self._count and time.monotonic() < until:
            time.sleep(0.01)

    def _run(self) -> None:
        while True:
            next_end = next(iter(self._ends.values()), [None])[0]
            next_answer = min((late.at for late in self._late.values()), default=None)
            next_cut = next((until for until, _ in self._sending.values()), None)
            times = [at for at in (next_end, next_answer, next_cut) if at is not None]
            for key, _ in self._selector.select(max(0.0, min(times) - time.monotonic()) if times else None):
                if key.fileobj is self._wake_reader:
                    self._wake_reader.recv(1)
                    if (arrived := self._arriving.get()) is None:
                        self._is_finishing = True
                    else:
                        self._begin(*arrived)
                elif not isinstance(key.fileobj, socket.socket):
                    continue
                elif key.fileobj in self._sending:
                    self._send(key.fileobj)
                elif self._is_over(key.fileobj):
                    self._close(key.fileobj)
            now = time.monotonic()
            due = [connection for connection, late in self._late.items() if late.at <= now or self._is_finishing]
            for connection in due:
                self._answer(connection, self._late.pop(connection))
            for connection in [connection for connection, (until, _) in self._sending.items() if until <= now]:
                self._cut(connection)
            for connection in [connection for connection, (end, _) in self._ends.items() if end <= now]:
                self._close(connection)

    def _begin(self, connection: socket.socket, late: LateAnswer | None) -> None:
        if late is not None:
            self._late[connection] = late
            return
        self._ends[connection] = [time.monotonic() + LINGER_SECONDS, LINGER_MAX_BYTES]
        self._selector.register(connection, selectors.EVENT_READ)

    def _answer(self, connection: socket.socket, late: LateAnswer) -> None:
        self._sending[connection] = time.monotonic() + settings.MEMORY_SEND_SECONDS, memoryview(late.content)
        self._selector.register(connection, selectors.EVENT_WRITE)
        while sum(len(left) for _, left in self._sending.values()) > SENDING_MAX_BYTES:
            self._cut(next(iter(self._sending)))
        if connection in self._sending:
            self._send(connection)

    def _send(self, connection: socket.socket) -> None:
        """Send what the client takes now; after the last byte the connection lingers."""
        until, left = self._sending[connection]
        try:
            left = left[connection.send(left) :]
            if not left:
                connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._cut(connection)
            return
        self._sending[connection] = until, left
        if not left:
            del self._sending[connection]
            self._selector.unregister(connection)
            self._begin(connection, None)

    def _cut(self, connection: socket.socket) -> None:
        del self._sending[connection]
        self._count -= 1
        self._selector.unregister(connection)
        connection.close()

    def _is_over(self, connection: socket.socket) -> bool:
        try:
            received_bytes = len(connection.recv(4096))
        except BlockingIOError:
            return False
        except OSError:
            return True
        left = self._ends[connection]
        left[1] -= received_bytes
        return received_bytes == 0 or left[1] <= 0

    def _close(self, connection: socket.socket) -> None:
        del self._ends[connection]
        self._count -= 1
        with contextlib.suppress(OSError, KeyError, ValueError):
            self._selector.unregister(connection)
        connection.close()


_lock = threading.Lock()
_current: Goodbyes | None = None


def goodbyes() -> Goodbyes:
    """The process's, made by the first goodbye, which comes after the fork."""
    global _current
    with _lock:
        if _current is None:
            _current = Goodbyes()
        return _current
