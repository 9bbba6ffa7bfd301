"""Puts the memory that stays into huge pages: 2 MiB that the processor finds by one entry of its tables, not by 512.

A request touches some tens of megabytes, weights above all. On a machine that others share little of it, or of the page
tables, is still in a cache when the next request comes, and a virtual machine walks two tables for every page.
Figures: deploy/bench/profile.md.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

HUGE_BYTES = 2 << 20
# What a huge page holds that was not in memory before is memory spent; so much of it was there.
FILLED_SHARE = 0.9
# Where memory is in pieces, the kernel first makes room for each: a start does not wait longer for all of them.
SECONDS_MAX = 1.0

ALLOWED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_MADV_COLLAPSE = 25  # Linux 6.1; the mmap module does not have it
_PAGES = HUGE_BYTES // mmap.PAGESIZE
_RESERVED = 8192  # what spans more, 16 GiB, is addresses that a driver keeps for itself
_PRESENT = np.uint64(1 << 63)  # of an entry of pagemap; a page that is swapped out is not


def use_huge_pages() -> int:
    """Put each aligned 2 MiB of this process's own memory, of which FILLED_SHARE is there, into one page; their number.

    Where the kernel cannot, is told to have no huge pages or has none left, or after SECONDS_MAX, what is left stays as
    it is.
    """
    began, done = time.monotonic(), 0
    try:
        if "[never]" in ALLOWED.read_text():
            return 0
        advise = ctypes.CDLL(None, use_errno=True).madvise
        for address in _filled():
            if time.monotonic() - began > SECONDS_MAX:
                break
            done += not advise(ctypes.c_void_p(address), ctypes.c_size_t(HUGE_BYTES), _MADV_COLLAPSE)
    except (OSError, ValueError, AttributeError) as error:
        logger.debug("no huge pages: %s", error)
    logger.info("%d MiB in huge pages after %.0f ms", done * HUGE_BYTES >> 20, (time.monotonic() - began) * 1_000)
    return done


def _filled() -> Iterator[int]:
    """The addresses of such 2 MiB. Raises OSError where the kernel does not tell."""
    with open("/proc/self/maps", errors="replace") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in maps.read().splitlines():
            span, permissions, _, _, file, *name = line.split()
            # Heaps and whatever else is of no file; stacks have a name of their own, or are hardly filled.
            if permissions[:2] != "rw" or permissions[3] != "p" or file != "0" or name not in ([], ["[heap]"]):
                continue
            begin, end = (int(address, 16) for address in span.split("-"))
            first, beyond = -(-begin // HUGE_BYTES), end // HUGE_BYTES
            if not 0 < beyond - first <= _RESERVED:
                continue
            pagemap.seek(first * _PAGES * 8)
            entries = np.frombuffer(pagemap.read((beyond - first) * _PAGES * 8), dtype=np.uint64)
            present = np.count_nonzero(entries.reshape(-1, _PAGES) & _PRESENT, axis=1)
            for nth in np.flatnonzero(present >= FILLED_SHARE * _PAGES).tolist():
                yield (first + nth) * HUGE_BYTES
