"""A progress bar for people, a few lines for logs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")

BAR_CHARS = 30
REDRAW_SECONDS = 0.2
LOG_LINES = 10  # for a stream that is no terminal


def progress(items: Iterable[Item], total: int, label: str, stream: TextIO | None) -> Iterator[Item]:
    """`items`, with how far it is on `stream`; None shows nothing."""
    if stream is None:
        yield from items
        return
    started = drawn = time.monotonic()
    terminal = stream.isatty()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        seconds = now - started
        if terminal and (now - drawn >= REDRAW_SECONDS or done == total):
            filled = BAR_CHARS * done // total
            bar = "#" * filled + "." * (BAR_CHARS - filled)
            stream.write(f"\r{label} [{bar}] {done}/{total} {_pace(done, total, seconds)}" + "\n" * (done == total))
            stream.flush()
            drawn = now
        elif not terminal and done * LOG_LINES // total != (done - 1) * LOG_LINES // total:
            stream.write(f"{label} {done}/{total} {_pace(done, total, seconds)}\n")


def _pace(done: int, total: int, seconds: float) -> str:
    """Seconds so far, how many a second, and the seconds left at that rate."""
    rate = done / max(seconds, 1e-6)
    return f"{seconds:.0f} s, {rate:.1f}/s, {(total - done) / rate:.0f} s left"
