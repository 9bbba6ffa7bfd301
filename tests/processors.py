"""What a test needs of the machine that binds threads to processors."""

from __future__ import annotations

import os

import pytest

# Of the thread that imports this: what every thread may use that nobody has bound.
EVERYWHERE: set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

on_two_processors = pytest.mark.skipif(len(EVERYWHERE) < 2, reason="needs Linux and two processors")
