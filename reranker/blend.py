"""From a backend's scores to scores between 0 and 1, in an order that is always the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow, float64."""
    values = np.asarray(values, dtype=np.float64)
    return np.exp(-np.logaddexp(0.0, -values))


def standardised(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the pool; all 0 where the values do not differ."""
    values = np.asarray(values, dtype=np.float64)
    spread = values.std()
    # Equal values can have a mean that is off by a rounding error.
    if spread <= 1e-9 * max(1.0, np.abs(values).max()):
        return np.zeros_like(values)
    return (values - values.mean()) / spread


def blended(scores: Sequence[float] | None, of_backend: np.ndarray, blend: float) -> np.ndarray:
    """`(1 - b) * z(scores) + b * z(of_backend)`, float64[n], unbounded; z standardises over the pool.

    Without `scores` it is the backend's alone.
    """
    if scores is None:
        return standardised(of_backend)
    return (1 - blend) * standardised(scores) + blend * standardised(of_backend)


def best_first(values: np.ndarray) -> list[int]:
    """Indices by falling value, the earlier of equal ones first."""
    return np.argsort(-np.asarray(values, dtype=np.float64), kind="stable").tolist()
