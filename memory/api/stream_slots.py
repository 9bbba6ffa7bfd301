"""How many answers that last, streams and exports, one worker carries at a time, and how many of one user's."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

from django.conf import settings

from memory.errors import Overloaded

# A stream lasts seconds; who is turned away at once comes back to the same streams.
RETRY_AFTER_SECONDS = 2


class StreamSlots:
    """`limit()` of them, and `share(limit)` for one user; nobody waits for one."""

    def __init__(self, limit: Callable[[], int], share: Callable[[int], int]):
        self._limit, self._share = limit, share
        self._lock = threading.Lock()
        self._taken_by: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        return self._taken_by.total()

    def take(self, user_hash: str) -> Callable[[], None]:
        """Take one for this user; the result, called once, gives it back.

        Raises Overloaded where all are taken, or the user's share of them is.
        """
        with self._lock:
            limit = self._limit()
            if self.taken >= limit or self._taken_by[user_hash] >= self._share(limit):
                raise Overloaded(retry_after_seconds=RETRY_AFTER_SECONDS)
            self._taken_by[user_hash] += 1
        return partial(self._release, user_hash)

    def _release(self, user_hash: str) -> None:
        with self._lock:
            self._taken_by[user_hash] -= 1
            if not self._taken_by[user_hash]:
                # Else every user who ever streamed would be kept.
                del self._taken_by[user_hash]


# So that no user's streams keep all others out: one in six, at least one, is left to them.
streams = StreamSlots(lambda: settings.MEMORY_STREAMS_MAX, share=lambda limit: max(2, limit - max(1, limit // 6)))
# Fewer than streams, since one may last far longer; together they leave threads for requests that do not last.
exports = StreamSlots(
    lambda: max(1, min(settings.MEMORY_STREAMS_MAX, settings.GUNICORN_THREADS) // 4), share=lambda limit: 1
)
