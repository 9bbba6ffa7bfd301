"""Vectors as they are searched: rotated by a secret of their user, so that they say nothing to who reads the table."""

from __future__ import annotations

import numpy as np

from memory.embedding.rotation import Rotation
from memory.embedding.spaces import is_rotated
from memory.sealing.user_keys import Purpose, SearchKey


def protect(key: SearchKey, units: np.ndarray) -> np.ndarray:
    """The searchable form of float32[n, d] or [d]: rotated by the user's secret matrix unless the key's space is not.

    Raises SpaceMismatch.
    """
    if not is_rotated(key.space):
        return units
    return key.cached(Purpose.ROTATION, lambda secret: Rotation(secret, units.shape[-1])).apply(units)
