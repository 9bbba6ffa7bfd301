"""Recency: how much of a score is left after a while."""

from __future__ import annotations

from typing import overload

import numpy as np

SECONDS_PER_DAY = 86_400.0
DEFAULT_HALF_LIFE_DAYS = 30.0
DEFAULT_WEIGHT = 0.2


@overload
def decayed(score: float, age_seconds: float, *, half_life_days: float = ..., weight: float = ...) -> float: ...


@overload
def decayed(
    score: np.ndarray, age_seconds: np.ndarray, *, half_life_days: float = ..., weight: float = ...
) -> np.ndarray: ...


def decayed(
    score: float | np.ndarray,
    age_seconds: float | np.ndarray,
    *,
    half_life_days: float = DEFAULT_HALF_LIFE_DAYS,
    weight: float = DEFAULT_WEIGHT,
) -> float | np.ndarray:
    """`score * (1 - w + w * 0.5 ** (age / half_life))`: at least `1 - w` stays.

    Scores are 0-1, higher is better, and stay there; scalars or arrays (any shape that
    broadcasts). `weight` 0 gives `score` back exactly. An age below 0 (a clock ahead of ours)
    counts as 0. Raises `ValueError` unless 0 <= weight <= 1 and half_life_days > 0.
    """
    if not 0.0 <= weight <= 1.0:
        raise ValueError("weight must be between 0 and 1")
    if not half_life_days > 0.0:
        raise ValueError("half_life_days must be above 0")
    half_lives = np.maximum(age_seconds, 0.0) / (half_life_days * SECONDS_PER_DAY)
    # The same formula, written so that rounding can neither pass 1 nor miss it at w = 0.
    kept = 1.0 - weight * (1.0 - np.exp2(-half_lives))
    faded = score * kept
    return faded if isinstance(faded, np.ndarray) else float(faded)
