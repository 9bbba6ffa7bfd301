"""The garbage collector leaves alone what a worker loads at its start and keeps.

A worker's libraries and models are half a million objects. A full collection walks over each of them with every thread
stopped: 270 ms (one of 2 cores), whenever a quarter more have piled up.
"""

from __future__ import annotations

import gc


def spare_what_is_loaded() -> None:
    """Collect what is garbage now, and never look at what is alive again. After a load that stays for good."""
    gc.collect()
    gc.freeze()
