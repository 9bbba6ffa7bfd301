"""Keeps two threads that work for one request on different processors, from the moment one wakes the other.

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

# PyDLL does not release the interpreter's lock: releasing it would cost more than the call.
_current_cpu = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None


@contextmanager
def apart_from(thread_id: int | None) -> Iterator[None]:
    """Within the block the calling thread runs on one half of its processors, and `thread_id` on the other half.

    That is a thread's `native_id`; None is nobody. After the block both run wherever the process may.
    """
    own, other = _halves()
    bound = ((0, own), (thread_id, other)) if own and thread_id is not None else ()
    for thread, half in bound:
        _bind(thread, half)
    try:
        yield
    finally:
        for thread, _ in bound:
            _bind(thread, _ANYWHERE)


def go_anywhere() -> None:
    """The calling thread runs wherever the process may, whatever it was bound to.

    For one that was on the other side of `apart_from`: OpenVINO's threads library notes where a thread may run when it
    begins to compute, and binds it to that again when it ends.
    """
    _bind(0, _ANYWHERE)


def _halves() -> tuple[list[int], list[int]]:
    """The calling thread's processors in two halves, taken alternately; the first holds the one it runs on.

    Both are empty where there is only one.
    """
    if _current_cpu is None:
        return [], []
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return [], []
    current = _current_cpu()
    half = allowed.index(current) % 2 if current in allowed else 0
    return allowed[half::2], allowed[1 - half :: 2]


def _bind(thread_id: int, processors: Collection[int]) -> None:
    if not processors:
        return
    # The thread may have ended, and what the process may use may just have changed.
    with suppress(OSError):
        os.sched_setaffinity(thread_id, processors)


def _anywhere() -> Collection[int]:
    """What a thread is bound to that is to be bound no more.

    Where nobody has bound this process (`taskset`), that is every processor of the machine: the kernel leaves out those
    that its cpuset has not, and gives them once it has.
    """
    if _current_cpu is None:
        return ()
    allowed = os.sched_getaffinity(0)
    every = range(max(*allowed, os.cpu_count() or 1) + 1)
    _bind(0, every)
    if os.sched_getaffinity(0) == allowed:
        return every
    _bind(0, allowed)
    return allowed


_ANYWHERE = _anywhere()
