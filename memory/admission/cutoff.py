"""Ends a read from a client's socket at a given moment, however little comes at a time.

A socket's own timeout begins anew with every byte, so who sends one every few seconds keeps a thread for as long as
he likes. Here one thread of the process watches the moments; at its own the socket's reading side is shut down, and
whoever blocks on it reads the end of the stream. Its writing side stays open: the client can still be told.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["Cutoff", "reading_until"]


class Cutoff:
    """One socket and its moment, on the `time.monotonic()` clock; `has_fired` says whether it came."""

    def __init__(self, connection: socket.socket, at: float):
        self.at = at
        self.has_fired = False
        self._connection: socket.socket | None = connection
        self._lock = threading.Lock()

    @property
    def is_over(self) -> bool:
        return self._connection is None

    def cancel(self) -> None:
        """It is read: from now on the socket may belong to another request."""
        with self._lock:
            self._connection = None

    def fire(self) -> None:
        with self._lock:
            if self._connection is not None:
                self.has_fired = True
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RD)
                self._connection = None


@contextlib.contextmanager
def reading_until(connection: socket.socket | None, at: float) -> Iterator[Cutoff | None]:
    """Inside the block reads of `connection` end at the moment `at`. None where there is no socket to end."""
    if connection is None:
        yield None
        return
    cutoff = Cutoff(connection, at)
    _watch().add(cutoff)
    try:
        yield cutoff
    finally:
        cutoff.cancel()


class _Watch:
    """The thread that waits for the next moment.

    Most are cancelled long before. They are left in the heap until the thread wakes anyway: waking it for each would
    take the interpreter from a request.
    """

    def __init__(self):
        self.pid = os.getpid()
        self._changed = threading.Condition()
        self._number = itertools.count()
        self._waiting: list[tuple[float, int, Cutoff]] = []
        threading.Thread(target=self._run, name="cutoff", daemon=True).start()

    def add(self, cutoff: Cutoff) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (cutoff.at, next(self._number), cutoff))
            if self._waiting[0][2] is cutoff:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            for cutoff in self._due():
                cutoff.fire()

    def _due(self) -> list[Cutoff]:
        """Waits until the first moment comes or an earlier one is set; returns those that have come and still count.

        When one has come, all that are cancelled go. When none has, none goes: a cancelled one at the front keeps later
        ones from waking the thread.
        """
        with self._changed:
            self._changed.wait(max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None)
            now = time.monotonic()
            if not self._waiting or self._waiting[0][0] > now:
                return []
            live = [each for each in self._waiting if not each[2].is_over]
            self._waiting = [each for each in live if each[0] > now]
            heapq.heapify(self._waiting)
        return [cutoff for at, _, cutoff in live if at <= now]


_lock = threading.Lock()
_current: _Watch | None = None


def _watch() -> _Watch:
    """This process's: a thread does not come along through a fork."""
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = _Watch()
        return _current
