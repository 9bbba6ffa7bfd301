"""On which processors two threads run that work for one request: on different ones, from when one wakes the other.

Linux puts a thread that is woken onto an idle processor. In a virtual machine an idle one does not count as idle, since
its host has given it to others meanwhile (`vcpu_is_preempted`): there the thread is put behind its waker, and waits for
milliseconds until the load is balanced. So the waker says where the other may run. Elsewhere than on Linux, and with
one processor, nothing here does anything. Figures: deploy/bench/profile.md.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

_ANYWHERE = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
# By way of PyDLL, which keeps the interpreter: to give it away would cost more than the answer.
_current_cpu = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None


@contextmanager
def apart_from(thread_id: int | None) -> Iterator[None]:
    """Inside, the calling thread stays on its half of those it may run on, and `thread_id` is on the other half.

    That is a thread's `native_id`, and it stays there until it calls `go_anywhere`.
    """
    own, other = _halves()
    _bind(thread_id, other)
    _bind(0, own)
    try:
        yield
    finally:
        _bind(0, own + other)


def go_anywhere() -> None:
    """The calling thread may run wherever this process could when it began."""
    _bind(0, _ANYWHERE)


def _halves() -> tuple[list[int], list[int]]:
    """Every second of those it may run on, the calling thread's own among them, and the others; none of one only."""
    if _current_cpu is None:
        return [], []
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return [], []
    current = _current_cpu()
    half = allowed.index(current) % 2 if current in allowed else 0
    return allowed[half::2], allowed[1 - half :: 2]


def _bind(thread_id: int | None, processors: Collection[int]) -> None:
    # The thread may have ended, and what the process may use may just have changed.
    if processors and thread_id is not None:
        with suppress(OSError):
            os.sched_setaffinity(thread_id, processors)
