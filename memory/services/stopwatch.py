"""Laps of one request, in milliseconds."""

import time


class Stopwatch:
    """`lap(name)` closes the time since the last lap under that name; laps of one name add up."""

    def __init__(self):
        self._start = self._last = time.perf_counter()
        self._laps_ms: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Close the running lap."""
        now = time.perf_counter()
        self._laps_ms[name] = self._laps_ms.get(name, 0.0) + (now - self._last) * 1000
        self._last = now

    def skip(self) -> None:
        """Close the running lap without a name: only the total has it."""
        self._last = time.perf_counter()

    def total(self) -> dict[str, float]:
        """Every lap and `total`, rounded to microseconds."""
        laps = self._laps_ms | {"total": (time.perf_counter() - self._start) * 1000}
        return {name: round(elapsed_ms, 3) for name, elapsed_ms in laps.items()}
