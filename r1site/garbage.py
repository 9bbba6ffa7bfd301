"""What is loaded once and stays: out of the garbage collector's sight, in huge pages, nothing of the loading beside it.

A worker's libraries and models are half a million objects. A full collection walks over each of them with every thread
stopped: 270 ms (one of 2 cores), whenever a quarter more have piled up.
"""

from __future__ import annotations

import ctypes
import gc

from r1site.huge_pages import use_huge_pages


def spare_what_is_loaded() -> None:
    """Collect what is garbage now, and never look at what is alive again. After a load that stays for good."""
    gc.collect()
    gc.freeze()
    _give_back_memory()
    use_huge_pages()


def _give_back_memory() -> None:
    """What a model's weights were read into lies free in the heap, which glibc gives back only where it is asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
