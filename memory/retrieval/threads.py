"""A turn judged with its neighbours: a question's terms spread along a thread before BM25 saturates them.

A turn alone says little: "Yes, last week!" answers a question that the turn before it asked. So the frequency of each
term, and the length, of what stands up to 2 places from a chunk in its thread count for the chunk too:

    tf'[i] = tf[i] + 0.5 * (tf[i-1] + tf[i+1]) + 0.4 * (tf[i-2] + tf[i+2])

and the mean length is that of a chunk with all its neighbours, 2.8 times as long. Document frequencies are those of
single chunks. Sums are made of whole tenths, so that they are exact in any order. Pure: `search.py` brings what is
spread, and what was not brought counts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from memory.lexical.bm25 import Weights, scores

ONE = 10
NEIGHBOUR_WEIGHTS = (5, 4)  # in tenths: one place away, two places away
REACH = len(NEIGHBOUR_WEIGHTS)
SPREAD_LENGTH = 1 + 2 * sum(NEIGHBOUR_WEIGHTS) / ONE


@dataclass(frozen=True)
class Turns:
    """n chunks, by number: their lengths in terms, int64[n], and how often each of t terms occurs, int64[n, t]."""

    lengths: np.ndarray
    frequencies: np.ndarray

    def bm25(self, weights: Weights) -> np.ndarray:
        """float64[n]: the score of each by itself."""
        return scores(weights.terms, self.frequencies, self.lengths, weights.length_norm)

    def spread_bm25(self, chains: Sequence[Sequence[int]], weights: Weights) -> np.ndarray:
        """float64[n]: the score of each with its neighbours; `chains` are stretches of threads, in order."""
        lengths, frequencies = _spread(self.lengths, chains), _spread(self.frequencies, chains)
        return scores(weights.terms, frequencies, lengths, weights.length_norm / SPREAD_LENGTH)


def _spread(counts: np.ndarray, chains: Sequence[Sequence[int]]) -> np.ndarray:
    """Each row of int64[n, ..] with its neighbours' by their weights."""
    nobody = len(counts)
    steps = np.full((2, nobody + 1), nobody)
    for chain in chains:
        for before, after in pairwise(chain):
            steps[0, after], steps[1, before] = before, after
    counts = np.concatenate([counts, np.zeros_like(counts[:1])])
    tenths = ONE * counts
    for step in steps:
        beside = step
        for weight in NEIGHBOUR_WEIGHTS:
            tenths += weight * counts[beside]
            beside = step[beside]
    return tenths[:nobody] / ONE
