"""How far a command is, on stderr: how many, how many a second, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

REDRAW_SECONDS = 0.2  # on a terminal, where a line is drawn over the one before
LINE_SECONDS = 10.0  # elsewhere, such as in a log: a line each time, and none of what is done sooner


class Progress:
    """Called with a label, how many are done, and how many there are where that is known.

    Called with 0 first, so that the rate begins there. `write` gets pieces of text; None shows nothing. `counts`: the
    last count of each label, shown or not.
    """

    def __init__(self, write: Callable[[str], object] | None, *, is_terminal: bool = False):
        self.counts: dict[str, int] = {}
        self._write = write
        self._is_terminal = is_terminal
        self._label = ""
        self._is_drawn = False
        self._started = self._shown = time.monotonic()

    def __call__(self, label: str, done: int, total: int | None = None) -> None:
        now = time.monotonic()
        if label != self._label or not done:
            self.end()
            self._label = label
            self._started = self._shown = now
        self.counts[label] = done
        if self._write is None:
            return
        is_due = now - self._shown >= (REDRAW_SECONDS if self._is_terminal else LINE_SECONDS)
        if self._is_terminal and (is_due or done == total):
            # Blanks over what a longer line before has left.
            self._write(f"\r{_line(label, done, total, now - self._started):<78}")
            self._is_drawn, self._shown = True, now
        elif is_due:
            self._write(_line(label, done, total, now - self._started) + "\n")
            self._shown = now

    def end(self) -> None:
        """Ends the line on a terminal, so that what is written next has one of its own."""
        if self._is_drawn and self._write is not None:
            self._write("\n")
        self._is_drawn = False


def _line(label: str, done: int, total: int | None, seconds: float) -> str:
    rate = done / max(seconds, 1e-6)
    pace = f"{seconds:.0f} s, {rate:.1f}/s"
    if total is None:
        return f"{label} {done}, {pace}"
    left = f", {(total - done) / rate:.0f} s left" if rate else ""
    return f"{label} {done}/{total}, {pace}{left}"
