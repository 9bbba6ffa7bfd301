"""How many streams one worker carries at a time."""

from __future__ import annotations

import threading

from django.conf import settings

from memory.errors import Overloaded

# A stream lasts seconds; who is turned away at once comes back to the same streams.
RETRY_AFTER_SECONDS = 2


class StreamSlots:
    """MEMORY_STREAMS_MAX of them; nobody waits for one."""

    def __init__(self):
        self._lock = threading.Lock()
        self.taken = 0

    def take(self) -> None:
        """Take one, to be given back with `release()`. Raises Overloaded where all are taken."""
        with self._lock:
            if self.taken >= settings.MEMORY_STREAMS_MAX:
                raise Overloaded(retry_after_seconds=RETRY_AFTER_SECONDS)
            self.taken += 1

    def release(self) -> None:
        with self._lock:
            self.taken -= 1


slots = StreamSlots()
