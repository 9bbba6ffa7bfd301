"""How fast a command may go through rows, chunks or users, so that the service beside it keeps its own times. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

# Behind by more than this after a long wait, it does not catch up in one rush.
BURST_SECONDS = 1.0


class Pace:
    """Keeps to `per_second` on average; 0 is as fast as it goes. `sleep` and `clock` are for tests."""

    def __init__(
        self, per_second: float = 0.0, *, sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._seconds_each = 1 / per_second if per_second > 0 else 0.0
        self._sleep = sleep
        self._clock = clock
        self._free_at = clock()

    def spend(self, count: int) -> None:
        """Wait until so many more may have been done. Called after them, with no connection held."""
        now = self._clock()
        self._free_at = max(self._free_at, now - BURST_SECONDS) + count * self._seconds_each
        if self._free_at > now:
            self._sleep(self._free_at - now)
