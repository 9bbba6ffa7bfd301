"""Which of many passages say what all of them say. Pure: vectors in, indices out.

Centrality is LexRank's (Erkan and Radev, JAIR 22, 2004): the stationary distribution of a walk from passage to
passage along their cosines. The choice is maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).
"""

from __future__ import annotations

import numpy as np

DAMPING = 0.85
MIN_SIMILARITY = 0.1  # below this two passages have nothing to do with each other
REDUNDANCY_WEIGHT = 0.4  # of what was chosen already, against centrality
_ROUNDS = 100
_TOLERANCE = 1e-6


def similarities(units: np.ndarray) -> np.ndarray:
    """float64[n, n], cosines of float[n, d] rows of length 1, 0 below MIN_SIMILARITY and on the diagonal."""
    cosines = np.clip(units.astype(np.float64) @ units.astype(np.float64).T, 0.0, 1.0)
    cosines[cosines < MIN_SIMILARITY] = 0.0
    np.fill_diagonal(cosines, 0.0)
    return cosines


def centrality(similar: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
    """float64[n] that sums to 1, of what `similarities` gives.

    `prior`: float[n], 0 or more, how likely the walk is to begin anew at each passage; None is everywhere alike.
    """
    count = len(similar)
    start = np.ones(count) if prior is None or prior.sum() <= 0 else np.asarray(prior, np.float64)
    start = start / start.sum()
    reach = similar.sum(axis=1, keepdims=True)
    # From a passage that resembles none, the walk begins anew.
    steps = np.where(reach > 0, similar / np.where(reach > 0, reach, 1.0), start[None, :])
    ranks = start
    for _ in range(_ROUNDS):
        following = (1 - DAMPING) * start + DAMPING * (ranks @ steps)
        if np.abs(following - ranks).sum() < _TOLERANCE:
            return following
        ranks = following
    return ranks


def choose(scores: np.ndarray, similar: np.ndarray, count: int) -> list[int]:
    """Indices of at most `count` passages of high score that do not repeat each other, best first; of equals the first.

    `scores`: float[n], 0 or more. `similar`: float[n, n], 0 to 1.
    """
    if not len(scores):
        return []
    worth = scores / scores.max() if scores.max() > 0 else np.ones(len(scores))
    repeated = np.zeros(len(scores))
    left = np.ones(len(scores), bool)
    chosen: list[int] = []
    while len(chosen) < min(count, len(scores)):
        gain = (1 - REDUNDANCY_WEIGHT) * worth - REDUNDANCY_WEIGHT * repeated
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        chosen.append(best)
        left[best] = False
        repeated = np.maximum(repeated, similar[best])
    return chosen
