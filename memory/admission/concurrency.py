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

from memory.errors import MemoryServiceError, Overloaded, TooManyRequestsAtOnce, UserOverloaded

__all__ = ["Budget", "Slot", "capacity", "exports", "language_models", "requests", "streams"]

# An ordinary request is over in a moment; a stream lasts seconds, and who comes back at once meets the same ones.
REQUEST_RETRY_AFTER_SECONDS = 1
LASTING_RETRY_AFTER_SECONDS = 2


class Budget:
    """At most `limit()` at once, and `share(limit)` of one user's.

    Over the share `over_share` is raised, and UserOverloaded by who waited; with no room at all, or none left in the
    worker, Overloaded.
    """

    def __init__(
        self,
        limit: Callable[[], int],
        share: Callable[[int], int],
        *,
        over_share: type[MemoryServiceError] = UserOverloaded,
        retry_after_seconds: int,
    ):
        self._limit, self._share = limit, share
        self._over_share, self._retry_after_seconds = over_share, retry_after_seconds
        self._taken_by: Counter[str] = Counter()
        self._on_a_thread_that_counts = 0

    @property
    def taken(self) -> int:
        return self._taken_by.total()

    @property
    def threads(self) -> int:
        """How many threads those taken hold that no other budget counts."""
        return self.taken - self._on_a_thread_that_counts

    def take(self, user_hash: str, *, patience_seconds: float | None = None) -> Slot:
        """One of this user's; the slot gives it back. Raises as the class says.

        `patience_seconds` is for who has room in another budget, and so a thread, already: it waits so long, and
        takes nothing from the worker's capacity.
        """
        with _changed:
            limit = self._limit()
            if patience_seconds is None:
                self._require_room(user_hash, limit)
            elif not _changed.wait_for(lambda: self._has_room(user_hash, limit), patience_seconds):
                is_own = self._taken_by[user_hash] >= self._share(limit)
                raise (UserOverloaded if is_own else Overloaded)(retry_after_seconds=self._retry_after_seconds)
            self._taken_by[user_hash] += 1
            self._on_a_thread_that_counts += patience_seconds is not None
        return Slot(partial(self._release, user_hash, patience_seconds is not None))

    def _has_room(self, user_hash: str, limit: int) -> bool:
        return self._taken_by[user_hash] < self._share(limit) and self.taken < limit

    def _require_room(self, user_hash: str, limit: int) -> None:
        if self._taken_by[user_hash] >= self._share(limit):
            raise self._over_share(retry_after_seconds=self._retry_after_seconds)
        if self.taken >= limit or _threads_in_all() >= capacity():
            raise Overloaded(retry_after_seconds=self._retry_after_seconds)

    def _release(self, user_hash: str, on_a_thread_that_counts: bool) -> None:
        with _changed:
            self._taken_by[user_hash] -= 1
            self._on_a_thread_that_counts -= on_a_thread_that_counts
            if not self._taken_by[user_hash]:
                # Else every user who ever asked would be kept.
                del self._taken_by[user_hash]
            _changed.notify_all()


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


def _threads_in_all() -> int:
    return requests.threads + streams.threads + exports.threads


def _streams_max() -> int:
    """As set, but never so many that a worker of few threads has none left for what does not last."""
    return max(1, min(settings.MEMORY_STREAMS_MAX, capacity() * 2 // 3))


_changed = threading.Condition()

requests = Budget(
    capacity,
    # In a worker of few threads, one is left to others all the same.
    share=lambda limit: max(1, min(settings.MEMORY_USER_CONCURRENCY, limit - 1)),
    over_share=TooManyRequestsAtOnce,
    retry_after_seconds=REQUEST_RETRY_AFTER_SECONDS,
)
# So that no user's streams keep all others out: one in six, at least one, is left to them.
streams = Budget(
    _streams_max,
    share=lambda limit: max(1, limit - max(1, limit // 6)),
    retry_after_seconds=LASTING_RETRY_AFTER_SECONDS,
)
# Fewer than streams, since one may last far longer.
exports = Budget(
    lambda: max(1, _streams_max() // 4),
    share=lambda limit: 1,
    retry_after_seconds=LASTING_RETRY_AFTER_SECONDS,
)
# Of ordinary requests, so many may wait for a language model, whose time is not theirs: however long it hangs, the
# others are served.
language_models = Budget(
    lambda: max(1, capacity() // 4),
    share=lambda limit: max(1, min(settings.MEMORY_USER_CONCURRENCY, limit // 2)),
    retry_after_seconds=LASTING_RETRY_AFTER_SECONDS,
)
