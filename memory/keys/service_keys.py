"""Keys of the service itself, as opposed to a user's: HKDF-SHA256 (RFC 5869) from the tenant HMAC key. Pure.

They never change while users keep their names, need no setting of their own, and are gone with nobody's erasure.
"""

from __future__ import annotations

from memory.keys.derivation import derived_key
from memory.keys.master_keys import tenant_hmac_key


def service_key(purpose: str) -> bytes:
    """32 bytes for one purpose."""
    return derived_key(tenant_hmac_key(), purpose)
