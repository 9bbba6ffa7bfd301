"""Arrays as PostgreSQL sends them in one value of a row, read without making an object of each element."""

from __future__ import annotations

import numpy as np

from memory.lexical.segments import LIVE_BYTES

UUID_BYTES = 16
# The numbers that a segment takes up, however few chunks it has.
SPAN = 8 * LIVE_BYTES


def ids_of(sent: bytes | None) -> list[bytes]:
    """What string_agg() made of uuid_send()s; none where there were none."""
    return [sent[at : at + UUID_BYTES] for at in range(0, len(sent), UUID_BYTES)] if sent else []


def integers(sent: bytes | None) -> np.ndarray:
    """int32[n]: what array_send() made of an integer[] without nulls; None and an empty one are empty.

    Its header has 5 words, and a word of length stands before each element (PostgreSQL's arrayfuncs.c).
    """
    if sent is None:
        return np.empty(0, np.int32)
    return np.frombuffer(sent, ">i4")[6::2].astype(np.int32)


def words(sent: bytes) -> np.ndarray:
    """int32[n]: what int4send() made of integers, behind one another."""
    return np.frombuffer(sent, ">i4").astype(np.int32)


def live_chunks(known: np.ndarray, damaged: np.ndarray, bits: bytes) -> np.ndarray:
    """bool[chunks of all segments]: whether each is live; `bits` are those of the `damaged` segments in turn."""
    live = np.ones((len(known), SPAN), bool)
    unpacked = np.unpackbits(np.frombuffer(bits, np.uint8).reshape(-1, LIVE_BYTES), axis=1, bitorder="little")
    live[np.searchsorted(known, damaged)] = unpacked.astype(bool)
    return live.ravel()
