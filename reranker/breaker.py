"""A circuit breaker: stops asking a slow or failing model, and finds out when it is well again.

Pure: it reads the clock it is given and starts nothing. Its owner runs the probes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "half_open", "open"]

SLOW_CALLS_IN_A_ROW = 2
WINDOW_CALLS = 20
SLOW_CALLS_IN_WINDOW = WINDOW_CALLS // 2
FIRST_OPEN_SECONDS = 0.5
LONGEST_OPEN_SECONDS = 30.0


class Breaker:
    """Closed, calls go through; open, none do; half-open, one probe is under way and no call.

    It opens after 2 slow calls in a row or 10 among the last 20, for 0.5 s. Then exactly one
    probe decides: a good one closes it and forgets the past, a bad one opens it for twice as long,
    30 s at most. That time counts from the start of the probe, so that a probe which was itself
    slow does not put off the next one; the next never starts sooner than 0.5 s after it.

    `clock` gives seconds; any thread may call. `on_change` is called with each new state.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, on_change: Callable[[State], None] | None = None):
        self._clock = clock
        self._on_change = on_change or (lambda state: None)
        self._lock = threading.Lock()
        self._state: State = "closed"
        self._slow_in_a_row = 0
        self._recent: deque[bool] = deque(maxlen=WINDOW_CALLS)
        self._open_seconds = FIRST_OPEN_SECONDS
        self._probe_at = 0.0
        self._probe_started_at = 0.0
        self.times_opened = 0

    @property
    def state(self) -> State:
        return self._state

    def record(self, slow: bool) -> bool:
        """Note a call that reached the model; True if this opened the breaker.

        Calls that were admitted before it opened and end after that are not counted.
        """
        with self._lock:
            if self._state != "closed":
                return False
            self._recent.append(slow)
            self._slow_in_a_row = self._slow_in_a_row + 1 if slow else 0
            if self._slow_in_a_row < SLOW_CALLS_IN_A_ROW and sum(self._recent) < SLOW_CALLS_IN_WINDOW:
                return False
            self._open(self._clock() + self._open_seconds)
            return True

    def trip(self) -> bool:
        """Open at once, whatever the calls were like; True if it was closed."""
        with self._lock:
            if self._state != "closed":
                return False
            self._open(self._clock() + self._open_seconds)
            return True

    def seconds_until_probe(self) -> float | None:
        """0 when a probe is due, None when none is to come: closed, or one is under way."""
        with self._lock:
            return max(0.0, self._probe_at - self._clock()) if self._state == "open" else None

    def begin_probe(self) -> bool:
        """True for the one caller who is to probe now; `end_probe` or `abandon_probe` must follow."""
        with self._lock:
            now = self._clock()
            if self._state != "open" or now < self._probe_at:
                return False
            self._probe_started_at = now
            self._turn("half_open")
            return True

    def end_probe(self, good: bool) -> None:
        with self._lock:
            if self._state != "half_open":
                return
            if good:
                self._slow_in_a_row = 0
                self._recent.clear()
                self._open_seconds = FIRST_OPEN_SECONDS
                self._turn("closed")
            else:
                self._open_seconds = min(2 * self._open_seconds, LONGEST_OPEN_SECONDS)
                soonest = self._clock() + FIRST_OPEN_SECONDS
                self._open(max(self._probe_started_at + self._open_seconds, soonest))

    def abandon_probe(self) -> None:
        """It ended before it had shown anything: open, as it was before, and the next probe is due."""
        with self._lock:
            if self._state == "half_open":
                self._probe_at = self._clock()
                self._turn("open")

    def _open(self, probe_at: float) -> None:
        self._probe_at = probe_at
        self.times_opened += 1
        self._turn("open")

    def _turn(self, state: State) -> None:
        self._state = state
        self._on_change(state)
