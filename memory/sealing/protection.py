"""Vectors as they are searched: rotated by a secret of their user, so that they say nothing to who reads the table."""

from __future__ import annotations

import numpy as np
from django.conf import settings

from memory.embedding.rotation import Rotation
from memory.sealing.user_keys import Purpose, SearchKey


def protect(key: SearchKey, units: np.ndarray) -> np.ndarray:
    """The searchable form of float32[n, d] or [d]: rotated by the user's secret matrix unless protection is off."""
    if settings.MEMORY_EMBEDDING_PROTECTION == "none":
        return units
    return key.cached(Purpose.ROTATION, lambda secret: Rotation(secret, units.shape[-1])).apply(units)
