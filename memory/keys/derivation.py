"""One key from another: HKDF-SHA256 (RFC 5869). Pure: no Django."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DERIVED_KEY_BYTES = 32


def derived_key(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose, whose name is part of the derivation and must never change."""
    info = f"r1-memory/1/{purpose}".encode()
    return HKDF(algorithm=hashes.SHA256(), length=DERIVED_KEY_BYTES, salt=None, info=info).derive(secret)
