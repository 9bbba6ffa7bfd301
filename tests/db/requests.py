"""A request as the database sees it: with a deadline, by which its transactions are limited."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from memory.admission import deadline


@contextmanager
def within_a_request(seconds: float = 5.0) -> Iterator[None]:
    """A block that has so long."""
    with deadline.counting_from(time.monotonic()):
        deadline.allow(seconds)
        yield
