"""A turn judged with its neighbours: a question's terms spread along a thread before BM25 saturates them.

A turn alone says little: "Yes, last week!" answers a question that the turn before it asked. So the frequency of each
term, and the length, of what stands up to 2 places from a chunk in its thread count for the chunk too:

    tf'[i] = tf[i] + 0.5 * (tf[i-1] + tf[i+1]) + 0.4 * (tf[i-2] + tf[i+2])

and the mean length is that of a chunk with all its neighbours, 2.8 times as long. Document frequencies are those of
single chunks. Sums are made of whole tenths, so that they are exact in any order. Pure: `search.py` brings what is
spread, and what was not brought counts nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from memory.lexical.bm25 import FLOOR, UNIT

ONE = 10
NEIGHBOUR_WEIGHTS = (5, 4)  # in tenths: one place away, two places away
REACH = len(NEIGHBOUR_WEIGHTS)
SPREAD_LENGTH = 1 + 2 * sum(NEIGHBOUR_WEIGHTS) / ONE


@dataclass(frozen=True, slots=True)
class Words:
    """A chunk's length in terms, and how often each of the question's terms occurs in it."""

    length: int
    frequencies: Mapping[int, int]


@dataclass(frozen=True)
class TermWeights:
    """What BM25 needs besides: each term's weight, idf and all, and K1 * B by the mean length of a chunk."""

    of_term: Mapping[int, float]
    length_norm: float


class Thread:
    """Which chunk stands beside which, as far as that was read; `chains`: stretches of threads, in order.

    An id is its 16 bytes.
    """

    def __init__(self, chains: Sequence[Sequence[bytes]]):
        self._after: dict[bytes, bytes] = {}
        self._before: dict[bytes, bytes] = {}
        for chain in chains:
            for first, second in pairwise(chain):
                self._after[first] = second
                self._before[second] = first

    def __bool__(self) -> bool:
        """Whether any chunk has a neighbour."""
        return bool(self._after)

    def around(self, chunk_id: bytes) -> list[tuple[bytes, int]]:
        """(id, weight in tenths) of the chunk and of each of its neighbours."""
        found = [(chunk_id, ONE)]
        for step in (self._before, self._after):
            at = chunk_id
            for weight in NEIGHBOUR_WEIGHTS:
                if (beside := step.get(at)) is None:
                    break
                found.append((beside, weight))
                at = beside
        return found


def bm25(words: Words, weights: TermWeights) -> float:
    """The score of one chunk by itself: to the bit what the lexical leg says of it."""
    return _score(words.frequencies, words.length, weights.of_term, weights.length_norm)


def spread_bm25(thread: Thread, words: Mapping[bytes, Words], weights: TermWeights) -> dict[bytes, float]:
    """The score of each chunk with its neighbours; those that are not in it have 0."""
    tenths: dict[bytes, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for chunk_id, chunk in words.items():
        if chunk.frequencies:
            for place, weight in thread.around(chunk_id):
                of_place = tenths[place]
                for term, frequency in chunk.frequencies.items():
                    of_place[term] += weight * frequency
    length_norm = weights.length_norm / SPREAD_LENGTH
    scores = {}
    for chunk_id, of_place in tenths.items():
        length = sum(weight * words[place].length for place, weight in thread.around(chunk_id) if place in words)
        frequencies = {term: count / ONE for term, count in of_place.items()}
        scores[chunk_id] = _score(frequencies, length / ONE, weights.of_term, length_norm)
    return scores


def _score(frequencies: Mapping[int, float], length: float, of_term: Mapping[int, float], length_norm: float) -> float:
    """As in `lexical/bm25.py`: each term's impact is rounded, so that the sum is exact in any order."""
    units = 0
    for term, frequency in frequencies.items():
        units += round(of_term[term] * frequency / (frequency + FLOOR + length_norm * length) * UNIT)
    return units / UNIT
