"""Whose query is next: users take turns, however many requests each of them has under way.

A worker runs Python one thread at a time, and the interpreter passes from thread to thread, not from user to user: who
has four requests would have four times what somebody with one has. So a few queries at a time search, and who waits is
called by user. Nobody holds a turn while he waits for a body, a reranker or a stream.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from memory.admission.deadline import remaining_seconds
from memory.errors import Overloaded, UserOverloaded

__all__ = ["Turns", "query_turns"]

RETRY_AFTER_SECONDS = 1
LONGEST_WAITING_ONE_IN = 8

_lock = threading.Lock()


class Turns:
    """At most `limit` at once, and half of them of one user's, at least one.

    Next is the user with the fewest requests, waiting or running; of these the one served longest ago. Of
    LONGEST_WAITING_ONE_IN turns one is the longest waiting user's, so that nobody waits for ever.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._share = max(1, limit // 2)
        self._lock = threading.Lock()
        self._calls = 0
        self._running: Counter[str] = Counter()
        # By user, the one served longest ago first; each event is one who waits, and is set when it is his turn.
        self._waiting: OrderedDict[str, deque[threading.Event]] = OrderedDict()

    @contextmanager
    def taking(self, user_hash: str, *, patience_seconds: float = threading.TIMEOUT_MAX) -> Iterator[None]:
        """One turn of this user's for the block.

        Raises Overloaded after `patience_seconds`, and where the request's deadline comes first.
        """
        self._take(user_hash, patience_seconds)
        try:
            yield
        finally:
            self._give_back(user_hash)

    def _take(self, user_hash: str, patience_seconds: float) -> None:
        with self._lock:
            if self._running.total() < self._limit and self._running[user_hash] < self._share:
                # Nobody waits who might have it: whoever gives a turn back calls the next one at once.
                self._running[user_hash] += 1
                return
            called = threading.Event()
            self._waiting.setdefault(user_hash, deque()).append(called)
        if called.wait(remaining_seconds(patience_seconds)):
            return
        with self._lock:
            # Who was called just now has his turn, late as it is.
            if called.is_set():
                return
            self._waiting[user_hash].remove(called)
            is_own = self._running[user_hash] >= self._share
            if not self._waiting[user_hash]:
                del self._waiting[user_hash]
        raise (UserOverloaded if is_own else Overloaded)(retry_after_seconds=RETRY_AFTER_SECONDS)

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
        users = [user for user in self._waiting if self._running[user] < self._share]
        if not users:
            return False
        self._calls += 1
        if self._calls % LONGEST_WAITING_ONE_IN == 0:
            user_hash = users[0]
        else:
            user_hash = min(users, key=lambda user: self._running[user] + len(self._waiting[user]))
        waiting = self._waiting[user_hash]
        called = waiting.popleft()
        if waiting:
            self._waiting.move_to_end(user_hash)
        else:
            del self._waiting[user_hash]
        self._running[user_hash] += 1
        called.set()
        return True


_turns: Turns | None = None


def query_turns() -> Turns:
    """The process's turns for queries, MEMORY_QUERIES_AT_ONCE."""
    global _turns
    if _turns is None:
        with _lock:
            _turns = _turns or Turns(settings.MEMORY_QUERIES_AT_ONCE)
    return _turns
