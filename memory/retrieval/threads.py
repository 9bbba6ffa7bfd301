"""A turn judged with its neighbours: a question's terms spread along a thread before BM25 saturates them.

A turn alone says little: "Yes, last week!" answers a question that the turn before it asked. So the frequency of each
term, and the length, of what stands up to 2 places from a chunk in its thread count for the chunk too:

    tf'[i] = tf[i] + 0.5 * (tf[i-1] + tf[i+1]) + 0.4 * (tf[i-2] + tf[i+2])

and the mean length is that of a chunk with all its neighbours, 2.8 times as long. Document frequencies are those of
single chunks. Pure: `search.py` brings what is spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from uuid import UUID

from memory.lexical.bm25 import FLOOR, UNIT

NEIGHBOUR_WEIGHTS = (0.5, 0.4)  # one place away, two places away
REACH = len(NEIGHBOUR_WEIGHTS)
SPREAD_LENGTH = 1.0 + 2 * sum(NEIGHBOUR_WEIGHTS)


@dataclass(frozen=True)
class Words:
    """A chunk's length in terms, and how often the question's terms occur in it."""

    length: int = 0
    frequencies: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TermWeights:
    """What BM25 needs besides: each term's weight, idf and all, and K1 * B by the mean length of a chunk."""

    of_term: Mapping[int, float]
    length_norm: float


class Thread:
    """Which chunk stands beside which, as far as that was read; `chains` are stretches of threads, in order."""

    def __init__(self, chains: Sequence[Sequence[UUID]]):
        self._after: dict[UUID, UUID] = {}
        self._before: dict[UUID, UUID] = {}
        for chain in chains:
            for first, second in pairwise(chain):
                self._after[first] = second
                self._before[second] = first

    def __bool__(self) -> bool:
        """Whether any chunk has a neighbour."""
        return bool(self._after)

    def around(self, chunk_id: UUID) -> list[tuple[UUID, float]]:
        """(id, weight) of the chunk and of each of its neighbours."""
        found = [(chunk_id, 1.0)]
        for step in (self._before, self._after):
            at: UUID | None = chunk_id
            for weight in NEIGHBOUR_WEIGHTS:
                at = step.get(at) if at else None
                if at is None:
                    break
                found.append((at, weight))
        return found


def bm25(words: Words, weights: TermWeights) -> float:
    """The score of one chunk by itself: to the bit what the lexical leg says of it."""
    return _score(words.frequencies, words.length, weights.of_term, weights.length_norm)


def spread_bm25(chunk_id: UUID, thread: Thread, words: Mapping[UUID, Words], weights: TermWeights) -> float:
    """The score of a chunk with its neighbours."""
    length = 0.0
    frequencies: dict[int, float] = {}
    for place, weight in thread.around(chunk_id):
        if (near := words.get(place)) is None:
            continue
        length += weight * near.length
        for term, frequency in near.frequencies.items():
            frequencies[term] = frequencies.get(term, 0.0) + weight * frequency
    return _score(frequencies, length, weights.of_term, weights.length_norm / SPREAD_LENGTH)


def _score(frequencies: Mapping[int, float], length: float, of_term: Mapping[int, float], length_norm: float) -> float:
    """As in `lexical/bm25.py`: each term's impact is rounded, so that the sum is exact in any order."""
    units = 0
    for term, frequency in frequencies.items():
        units += round(of_term[term] * frequency / (frequency + FLOOR + length_norm * length) * UNIT)
    return units / UNIT
