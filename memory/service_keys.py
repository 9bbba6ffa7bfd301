"""Keys of the service itself, as opposed to a user's: HKDF-SHA256 (RFC 5869) from the tenant HMAC key. Pure.

They never change while users keep their names, need no setting of their own, and are gone with nobody's erasure.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from memory.master_keys import tenant_hmac_key

SERVICE_KEY_BYTES = 32


def service_key(purpose: str) -> bytes:
    """32 bytes for one purpose, whose name is part of the derivation and must never change."""
    info = f"r1-memory/1/{purpose}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=SERVICE_KEY_BYTES, salt=None, info=info).derive(tenant_hmac_key())
