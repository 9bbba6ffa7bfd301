"""In a process of its own: what is spared stays spared."""

from __future__ import annotations

import subprocess
import sys

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


def test_what_is_alive_is_spared_and_what_becomes_garbage_is_found():
    subprocess.run([sys.executable, "-c", CODE], check=True)
