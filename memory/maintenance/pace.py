"""How fast a command may go, so that the service beside it keeps its own times."""

from __future__ import annotations

import time


class Pace:
    """Lets no more than `per_second` through, on average since the first; 0 is any number."""

    def __init__(self, per_second: float = 0.0):
        self._per_second = per_second
        self._started: float | None = None
        self._through = 0

    def let(self, count: int) -> None:
        """Wait until `count` more may go."""
        if not self._per_second:
            return
        now = time.monotonic()
        if self._started is None:
            self._started = now
        self._through += count
        time.sleep(max(0.0, self._started + self._through / self._per_second - now))
