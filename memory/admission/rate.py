"""How much a user may do in how long. Pure, so that settings can be read before anything else is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """At most `limit` tokens at once, and again as they refill, `limit` in `period_seconds`."""

    limit: int
    period_seconds: int

    @property
    def per_second(self) -> float:
        """How many tokens refill in a second."""
        return self.limit / self.period_seconds
