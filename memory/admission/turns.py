"""Whose request is next to keep the interpreter busy: users take turns, however many requests each of them has.

A worker runs Python one thread at a time, and the interpreter passes from thread to thread. Who has four requests
would so have four times what somebody with one has. So only a few may be in the dear part of their work at once, and
who waits is called by user. Nobody holds a turn while he waits for a body, a model or a stream; one user has half of
them at most, so that his long searches leave the others theirs.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from memory.admission.deadline import remaining_seconds
from memory.errors import Overloaded

__all__ = ["Turns", "interpreter"]

RETRY_AFTER_SECONDS = 1


class Turns:
    """At most `limit` at once, and half of them of one user's, at least one.

    Next is a user with the fewest running, of these the one served longest ago.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._share = max(1, limit // 2)
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        # By user, the one served longest ago first; each event is one who waits, and is set when it is his turn.
        self._waiting: OrderedDict[str, deque[threading.Event]] = OrderedDict()

    @contextmanager
    def taking(self, user_hash: str) -> Iterator[None]:
        """One turn of this user's for the block. Raises Overloaded where the request's deadline comes first."""
        self._take(user_hash)
        try:
            yield
        finally:
            self._give_back(user_hash)

    def _take(self, user_hash: str) -> None:
        with self._lock:
            if self._running.total() < self._limit and self._running[user_hash] < self._share:
                # Nobody waits who might have it: whoever gives a turn back calls the next one at once.
                self._running[user_hash] += 1
                return
            called = threading.Event()
            self._waiting.setdefault(user_hash, deque()).append(called)
        if called.wait(remaining_seconds(threading.TIMEOUT_MAX)):
            return
        with self._lock:
            # Who was called just now has his turn, late as it is.
            if called.is_set():
                return
            self._waiting[user_hash].remove(called)
            if not self._waiting[user_hash]:
                del self._waiting[user_hash]
        raise Overloaded(retry_after_seconds=RETRY_AFTER_SECONDS)

    def _give_back(self, user_hash: str) -> None:
        with self._lock:
            self._running[user_hash] -= 1
            if not self._running[user_hash]:
                # Else every user who ever asked would be kept.
                del self._running[user_hash]
            while self._running.total() < self._limit and self._call_next():
                pass

    def _call_next(self) -> bool:
        """Call the next one, if anybody waits who has not his share."""
        user_hash = min(self._waiting, key=lambda user: self._running[user], default=None)
        if user_hash is None or self._running[user_hash] >= self._share:
            return False
        waiting = self._waiting[user_hash]
        called = waiting.popleft()
        if waiting:
            self._waiting.move_to_end(user_hash)
        else:
            del self._waiting[user_hash]
        self._running[user_hash] += 1
        called.set()
        return True


# Two for each core: while one waits for the database, another works.
interpreter = Turns(max(2, 2 * len(os.sched_getaffinity(0))))
