"""From a backend's scores to scores between 0 and 1, in an order that is always the same."""

from __future__ import annotations

import numpy as np


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow, float64."""
    values = np.asarray(values, dtype=np.float64)
    return np.exp(-np.logaddexp(0.0, -values))


def best_first(values: np.ndarray) -> list[int]:
    """Indices by falling value, the earlier of equal ones first."""
    return np.argsort(-np.asarray(values, dtype=np.float64), kind="stable").tolist()
