"""A canary run's stages and times."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_SECONDS = 300.0
EVALUATE_SECONDS = 5.0
TRIPWIRE_SECONDS = 60.0
# So long an address of metrics may be silent before a canary that nobody sees is taken back.
BLIND_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """Stages as (percent, seconds); everything in seconds as they pass for the run, before `time_scale`.

    `window_seconds` is real: the length of the queries' window, by which all windows are shortened.
    """

    stages: tuple[tuple[int, float], ...] = ((5, 3600.0), (50, 86_400.0), (100, 86_400.0))
    check_seconds: float = 300.0
    time_scale: float = 1.0
    window_seconds: float = WINDOW_SECONDS

    @property
    def pace(self) -> float:
        return self.window_seconds / WINDOW_SECONDS

    @property
    def evaluate_seconds(self) -> float:
        """Between two looks, in real seconds; two of them are within 10 s."""
        return min(EVALUATE_SECONDS, self.check_seconds / self.time_scale, self.window_seconds / 10)

    @property
    def tripwire_seconds(self) -> float:
        return max(1.0, TRIPWIRE_SECONDS / self.time_scale)

    @property
    def blind_seconds(self) -> float:
        return min(BLIND_SECONDS, self.window_seconds / 2)
