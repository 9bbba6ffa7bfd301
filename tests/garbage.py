"""Garbage collection, of which a process with models loaded has a second at a time."""

import gc


def collect_what_is_new() -> None:
    """Collect, and let what is left be: no later collection looks through it again."""
    gc.collect()
    gc.freeze()
