"""Ends a read from a client's socket at a given moment, however little comes at a time.

A socket's own timeout begins anew with every byte, so who sends one every few seconds keeps a thread for as long as
he likes. Here one thread of the process watches the moments; at its own the socket's reading side is shut down, and
whoever blocks on it reads the end of the stream. Its writing side stays open: the client can still be told.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
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
    def is_cancelled(self) -> bool:
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

    Most are cancelled long before they come. They stay until the thread wakes: each time it did, the request under way
    would have to wait for the interpreter.
    """

    def __init__(self):
        self.pid = os.getpid()
        self._changed = threading.Condition()
        self._number = itertools.count()
        self._waiting: list[tuple[float, int, Cutoff]] = []
        self._wakes_at = math.inf
        threading.Thread(target=self._run, name="cutoff", daemon=True).start()

    def add(self, cutoff: Cutoff) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (cutoff.at, next(self._number), cutoff))
            if cutoff.at < self._wakes_at:
                self._wakes_at = cutoff.at
                self._changed.notify()

    def _run(self) -> None:
        while True:
            for cutoff in self._due():
                cutoff.fire()

    def _due(self) -> list[Cutoff]:
        """Wait for a moment, or for an earlier one that is set meanwhile; those that have come.

        With them goes what was cancelled up to the next that still counts, and with nothing come, nothing goes: else
        each that is set would be the first, and wake the thread.
        """
        with self._changed:
            self._changed.wait(None if self._wakes_at == math.inf else max(0.0, self._wakes_at - time.monotonic()))
            now = time.monotonic()
            due: list[Cutoff] = []
            while self._waiting and (self._waiting[0][0] <= now or (due and self._waiting[0][2].is_cancelled)):
                due.append(heapq.heappop(self._waiting)[2])
            self._wakes_at = self._waiting[0][0] if self._waiting else math.inf
        return due


_lock = threading.Lock()
_current: _Watch | None = None


def _watch() -> _Watch:
    """This process's: a thread does not come along through a fork."""
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = _Watch()
        return _current
