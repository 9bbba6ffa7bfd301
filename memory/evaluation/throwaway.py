"""Users that exist for one evaluation: stored through the service, erased with every trace of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from memory.erasure.erase import erase_unrecorded
from memory.rls import bind_tenant
from memory.sealing.keyring import existing_or_new_profile, existing_profile, forget_profiles
from memory.sealing.profile import TenantProfile
from memory.sealing.user_keys import Purpose
from memory.security import hmac_user

# Known ids, so that a run finds what an earlier one left when it was killed; no token's `sub` looks like one.
_NAMESPACE = uuid.UUID("5a0c1d4e-7a3b-5f60-9c1e-2d8b64f0e7aa")

# An erasure elsewhere may make this process forget its key in the middle of a call.
CALL_TRIES = 5


class ThrowAwayUser:
    """A context: the user is erased at its start, in case an earlier run was killed, and at its end.

    `rotated=False` gives the user the identity in place of the secret matrix of `memory/embedding/rotation.py`, and
    nothing else changes: so rotation on and off compare within one database and one embedding space.
    """

    def __init__(self, name: str, *, rotated: bool = True):
        self.user_id = f"evaluate-{uuid.uuid5(_NAMESPACE, name)}"
        self.user_hash = hmac_user(self.user_id)
        self.rotated = rotated
        self.erased_rows: dict[str, int] = {}

    def __enter__(self) -> ThrowAwayUser:
        erase(self.user_hash)
        return self

    def __exit__(self, *exc_info) -> None:
        self.erased_rows = erase(self.user_hash)

    def call(self, service: Callable[..., Any], *args: Any) -> Any:
        """`service(*args)` with this user bound; for an unrotated user again if the key was forgotten meanwhile.

        Raises RuntimeError if the key cache is too short-lived for that.
        """
        with bind_tenant(self.user_hash):
            if self.rotated:
                return service(*args)
            for _ in range(CALL_TRIES):
                profile = self._unrotated_profile()
                result = service(*args)
                if existing_profile(self.user_hash) is profile:
                    return result
            raise RuntimeError("MEMORY_KEY_CACHE_SECONDS is too short to hold a key for one call")

    def _unrotated_profile(self) -> TenantProfile:
        """A freshly cached profile whose rotation is the identity; the service's calls find this one."""
        existing_or_new_profile(self.user_hash, self.user_id)
        forget_profiles(self.user_hash)
        profile = existing_or_new_profile(self.user_hash, self.user_id)
        profile.search_key.cached(Purpose.ROTATION, lambda key: _Identity())
        return profile


class _Identity:
    """In place of `embedding.rotation.Rotation`."""

    def apply(self, units: np.ndarray) -> np.ndarray:
        return units


def erase(user_hash: str) -> dict[str, int]:
    """Delete every row of one user, keys included, as r1_app bound to that user; rows deleted by table."""
    with bind_tenant(user_hash):
        return erase_unrecorded()
