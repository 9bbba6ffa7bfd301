"""From two legs' scores to one, over the union of their candidates.

A cosine and a BM25 score have no unit in common: their spreads differ, from question to question too. So
each is weighed by one over its standard deviation among the candidates, as in a sum of z-scores
(Fox & Shaw, "Combination of Multiple Searches", 1994, with the normalisation of Montague & Aslam, 2001). Two
things differ from a plain sum:

* The weights are made to add up to 1 and nothing is centred. That leaves the order as it is, and the
  score on a scale that means something: 1 for a passage that says the same in the same words, the
  cosine where no word of the question occurs, near 0 for what is neither near nor shares a word.
* Each deviation is drawn towards a usual one, as if PRIOR_CANDIDATES more had been seen, so that few
  candidates, or candidates that are all alike, still have sensible weights: among two, plain z-scores
  of legs that disagree are always a tie.
"""

from __future__ import annotations

import math

import numpy as np

# Standard deviations over a union of 24 and 24 candidates, and how many candidates they count for. Measured
# on abstracts and on single sentences of two collections: cosine 0.09-0.12, BM25 by its maximum 0.18-0.20.
USUAL_VECTOR_DEVIATION = 0.10
USUAL_LEXICAL_DEVIATION = 0.20
PRIOR_CANDIDATES = 4


def fuse(vectors: np.ndarray, bm25: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray]:
    """The `lexical` and `fused` scores, float64[n] each, 0-1, of n candidates' `vector` (0-1) and `bm25` (>= 0).

        lexical = bm25 / max(bm25)                     0 where nobody has a hit, None where there was no leg
        weight  = dev(vector) / (dev(vector) + dev(lexical))
        fused   = (1 - weight) * vector + weight * lexical

    with dev(x) = sqrt((p * usual**2 + n * var(x)) / (p + n)) over the n candidates, p = PRIOR_CANDIDATES.
    Without a hit `fused` is exactly `vector`.

    Holds for any input: the order of the candidates does not matter; a positive factor on all BM25 scores
    changes nothing but by rounding; of two candidates in one set, the one at least as good in both legs never
    scores lower. That is all: a score that changes moves `max` and the weights, and with them every fused score.
    """
    if bm25 is None:
        return None, vectors
    best = bm25.max(initial=0.0)
    if not best:
        return np.zeros_like(vectors), vectors
    lexical = bm25 / best
    vector_deviation = _deviation(vectors, USUAL_VECTOR_DEVIATION)
    lexical_deviation = _deviation(lexical, USUAL_LEXICAL_DEVIATION)
    weight = vector_deviation / (vector_deviation + lexical_deviation)
    return lexical, np.minimum(1.0, (1.0 - weight) * vectors + weight * lexical)


def _deviation(scores: np.ndarray, usual: float) -> float:
    """The standard deviation of `scores` drawn towards `usual`; exact sums, so their order does not matter."""
    n = len(scores)
    mean = math.fsum(scores.tolist()) / n
    squares = math.fsum(((scores - mean) ** 2).tolist())
    return math.sqrt((PRIOR_CANDIDATES * usual**2 + squares) / (PRIOR_CANDIDATES + n))
