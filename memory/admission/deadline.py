"""One deadline a request, from which everything that waits takes its time.

The middleware starts the clock with `counting_from()`, the endpoint says with `allow()` how long its operation
may take in all, and whatever waits (for the body, a model, a lock, a connection) waits at most
`remaining_seconds()`. Moments are on the `time.monotonic()` clock. Outside a request there is no deadline.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from memory.errors import Overloaded

__all__ = [
    "allow",
    "arrived",
    "arrived_at",
    "counting_from",
    "deadline_at",
    "paused",
    "remaining_seconds",
    "require_time",
]

_arrived_at: ContextVar[float | None] = ContextVar("memory_request_arrived_at", default=None)
_started_at: ContextVar[float | None] = ContextVar("memory_request_started_at", default=None)
_deadline_at: ContextVar[float] = ContextVar("memory_deadline_at", default=math.inf)


@contextmanager
def arrived(at: float) -> Iterator[None]:
    """For the server: a request whose first byte was there at `at`, before it waited for this thread."""
    token = _arrived_at.set(at)
    try:
        yield
    finally:
        _arrived_at.reset(token)


def arrived_at() -> float:
    """When the request's first byte was there, where the server says so; else now."""
    at = _arrived_at.get()
    return time.monotonic() if at is None else at


@contextmanager
def counting_from(started_at: float) -> Iterator[None]:
    """A request that began at `started_at`; without a deadline until `allow()` is called."""
    started, deadline = _started_at.set(started_at), _deadline_at.set(math.inf)
    try:
        yield
    finally:
        _deadline_at.reset(deadline)
        _started_at.reset(started)


def allow(seconds: float) -> None:
    """Let the request last at most `seconds` from its beginning; a deadline that is earlier stands.

    Outside a request it does nothing: management commands have no deadline.
    """
    if (started_at := _started_at.get()) is not None:
        _deadline_at.set(min(_deadline_at.get(), started_at + seconds))


@contextmanager
def paused() -> Iterator[None]:
    """Time spent in the block is not the request's: for what has a limit of its own, such as a language model."""
    paused_at = time.monotonic()
    try:
        yield
    finally:
        _deadline_at.set(_deadline_at.get() + time.monotonic() - paused_at)


def deadline_at() -> float:
    """The moment by which the request must be answered; infinity where there is none."""
    return _deadline_at.get()


def remaining_seconds(at_most: float = math.inf) -> float:
    """How long one may still wait: never negative, at most `at_most`; infinity without either."""
    return max(0.0, min(at_most, _deadline_at.get() - time.monotonic()))


def require_time() -> None:
    """Raise Overloaded once the deadline has passed; for long work between two of its pieces."""
    if time.monotonic() >= _deadline_at.get():
        raise Overloaded(retry_after_seconds=1)
