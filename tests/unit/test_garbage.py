"""In a process of its own: what is spared stays spared."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import gc
import weakref
from r1site.garbage import spare_what_is_loaded

class Thing:
    pass

def ring():
    thing = Thing()
    thing.itself = thing
    return thing

dead = weakref.ref(ring())
kept = ring()
gc.disable()
spare_what_is_loaded()
assert dead() is None, "what was garbage is gone"
assert not any(found is kept for found in gc.get_objects()), "what was alive is not looked at"
later = weakref.ref(ring())
assert later() is not None
gc.collect()
assert later() is None, "what became garbage since is still found"
"""

# Pieces too large for Python's own arenas and too small for a mapping each; every thousandth stays, so that the heap
# cannot shrink from its end.
FREED_MB = 200
HEAP = f"""
from pathlib import Path
from r1site.garbage import spare_what_is_loaded

def resident_mb():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024

pieces = [bytes(2000) for _ in range({FREED_MB} * 500)]
kept = pieces[::1000]
del pieces
before = resident_mb()
spare_what_is_loaded()
assert before - resident_mb() > {FREED_MB} / 2, (before, resident_mb())
"""


def test_what_is_alive_is_spared_and_what_becomes_garbage_is_found():
    subprocess.run([sys.executable, "-c", CODE], check=True)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked for it")
def test_memory_that_loading_left_free_goes_back_to_the_system():
    subprocess.run([sys.executable, "-c", HEAP], check=True)
