"""How many requests one worker carries at a time, and how many of one user's; nobody waits for room.

A worker has a fixed number of threads, and a request holds one until it is answered. So one user may hold a share of
them; what memory does as a whole leaves some to health, metrics and the auth check; and answers that last, streams
and exports, have budgets of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

from django.conf import settings

from memory.errors import MemoryServiceError, Overloaded, TooManyRequestsAtOnce

__all__ = ["Budget", "Slot", "capacity", "exports", "requests", "streams"]

# An ordinary request is over in a moment; a stream lasts seconds, and who comes back at once meets the same ones.
REQUEST_RETRY_AFTER_SECONDS = 1
LASTING_RETRY_AFTER_SECONDS = 2


class Budget:
    """At most `limit()` at once, and `share(limit)` of one user's.

    Over the share `over_share` is raised; with no room at all, or none left in the worker, Overloaded.
    """

    def __init__(
        self,
        limit: Callable[[], int],
        share: Callable[[int], int],
        *,
        over_share: type[MemoryServiceError] = Overloaded,
        retry_after_seconds: int,
    ):
        self._limit, self._share = limit, share
        self._over_share, self._retry_after_seconds = over_share, retry_after_seconds
        self._taken_by: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        return self._taken_by.total()

    def take(self, user_hash: str) -> Slot:
        """One of this user's; the slot gives it back. Raises as the class says."""
        with _lock:
            limit = self._limit()
            if self._taken_by[user_hash] >= self._share(limit):
                raise self._over_share(retry_after_seconds=self._retry_after_seconds)
            if self.taken >= limit or _taken_in_all() >= capacity():
                raise Overloaded(retry_after_seconds=self._retry_after_seconds)
            self._taken_by[user_hash] += 1
        return Slot(partial(self._release, user_hash))

    def _release(self, user_hash: str) -> None:
        with _lock:
            self._taken_by[user_hash] -= 1
            if not self._taken_by[user_hash]:
                # Else every user who ever asked would be kept.
                del self._taken_by[user_hash]


class Slot:
    """Room in a budget, given back by the first `release()`; the others do nothing."""

    def __init__(self, release: Callable[[], None]):
        self._release: Callable[[], None] | None = release
        self.outlasts_request = False

    def release(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

    def hand_over(self) -> Callable[[], None]:
        """For an answer whose body goes on when the request's code has ended: its end gives the slot back."""
        self.outlasts_request = True
        return self.release


def capacity() -> int:
    """How many of the worker's threads memory may hold at once."""
    return max(1, settings.GUNICORN_THREADS - settings.MEMORY_RESERVED_THREADS)


def _taken_in_all() -> int:
    return requests.taken + streams.taken + exports.taken


_lock = threading.Lock()

requests = Budget(
    capacity,
    share=lambda limit: settings.MEMORY_USER_CONCURRENCY,
    over_share=TooManyRequestsAtOnce,
    retry_after_seconds=REQUEST_RETRY_AFTER_SECONDS,
)
# So that no user's streams keep all others out: one in six, at least one, is left to them.
streams = Budget(
    lambda: settings.MEMORY_STREAMS_MAX,
    share=lambda limit: max(2, limit - max(1, limit // 6)),
    retry_after_seconds=LASTING_RETRY_AFTER_SECONDS,
)
# Fewer than streams, since one may last far longer; together they leave threads for requests that do not last.
exports = Budget(
    lambda: max(1, min(settings.MEMORY_STREAMS_MAX, settings.GUNICORN_THREADS) // 4),
    share=lambda limit: 1,
    retry_after_seconds=LASTING_RETRY_AFTER_SECONDS,
)
