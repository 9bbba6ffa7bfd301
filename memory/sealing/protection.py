"""Vectors as they are searched: rotated by a secret of their user, so that they say nothing to who reads the table."""

from __future__ import annotations

import numpy as np
from django.conf import settings

from memory.embedding.rotation import Rotation
from memory.sealing.keyring import Purpose, TenantKeys


def protect(keys: TenantKeys, units: np.ndarray) -> np.ndarray:
    """The searchable form of float32[n, d] or [d]: rotated by the user's secret matrix unless protection is off."""
    if settings.MEMORY_EMBEDDING_PROTECTION == "none":
        return units
    return keys.cached(Purpose.ROTATION, lambda key: Rotation(key, units.shape[-1])).apply(units)
