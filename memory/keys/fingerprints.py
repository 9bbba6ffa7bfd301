"""Keys named so that two under one id are told apart: 16 hex digits that give nothing of the key away. Pure."""

from __future__ import annotations

from memory.keys.derivation import derived_key
from memory.keys.master_keys import has_master_keys, master_keys, tenant_hmac_keys

FINGERPRINT_BYTES = 8
SINGLE_HMAC_KEY_ID = "h1"
OTHER_HMAC_KEY_ID = "other"


def fingerprint(key: bytes) -> str:
    """16 hex digits of a key of at least 32 random bytes, derived under a label of their own."""
    return derived_key(key, "key-fingerprint")[:FINGERPRINT_BYTES].hex()


def master_key_fingerprints() -> dict[str, str]:
    """id -> fingerprint of every master key of this process; {} where a key server alone wraps. Raises SettingError."""
    if not has_master_keys():
        return {}
    return {key_id: fingerprint(key) for key_id, key in master_keys().keys.items()}


def hmac_key_fingerprints() -> dict[str, str]:
    """id -> fingerprint of every tenant HMAC key of this process. Raises SettingError."""
    ids = (SINGLE_HMAC_KEY_ID, OTHER_HMAC_KEY_ID)
    return {key_id: fingerprint(key) for key_id, key in zip(ids, tenant_hmac_keys(), strict=False)}
