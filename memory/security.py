"""The three primitives everything else stands on: `hmac_user`, `seal`, `open_sealed`. Pure: no Django.

A sealed blob is `nonce(12) || ciphertext || tag(16)` of AES-256-GCM (NIST SP 800-38D) with a
random 96-bit nonce, and nothing else: no version, no key id. What it belongs to is said by the
associated data, which `associated_data()` builds, and by the row it stands in.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memory.errors import InvalidUserId
from memory.keys.master_keys import MASTER_KEY_BYTES, master_keys, tenant_hmac_key

__all__ = ["InvalidTag", "associated_data", "canonical_user_id", "hmac_user", "open_sealed", "seal"]

NONCE_BYTES = 12
TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES
USER_ID_MAX_CHARS = 128


def canonical_user_id(user_id: object) -> str:
    """`user_id` itself, if it is canonical; nothing is ever normalised on the caller's behalf.

    Canonical: a string of 1-128 characters, in NFC, encodable as UTF-8, without control
    characters (Unicode categories Cc, Cs) and without outer white space. Two spellings of one
    id must not become one tenant, nor one id two, so anything else raises InvalidUserId.
    """
    if not isinstance(user_id, str) or not 1 <= len(user_id) <= USER_ID_MAX_CHARS:
        raise InvalidUserId()
    if user_id != user_id.strip() or not unicodedata.is_normalized("NFC", user_id):
        raise InvalidUserId()
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in user_id):
        raise InvalidUserId()
    return user_id


def hmac_user(user_id: str, key: bytes | None = None) -> str:
    """The tenant's name in the database: HMAC-SHA256 under MEMORY_TENANT_HMAC_KEY, 64 hex digits.

    Under `key`, where users are being renamed: which name is a user's then, `memory/sealing/names.py` says.
    Raises InvalidUserId when the id is not canonical; the HMAC is then never computed.
    """
    secret = tenant_hmac_key() if key is None else key
    return hmac.new(secret, canonical_user_id(user_id).encode(), hashlib.sha256).hexdigest()


def _cipher(key: bytes | AESGCM | None) -> AESGCM:
    if isinstance(key, AESGCM):
        return key
    if key is None:
        key = master_keys().active
    if len(key) != MASTER_KEY_BYTES:
        raise ValueError(f"an AES-256 key is {MASTER_KEY_BYTES} bytes, not {len(key)}")
    return AESGCM(key)


def seal(plaintext: bytes, aad: bytes = b"", key: bytes | AESGCM | None = None) -> bytes:
    """Encrypt and authenticate: `nonce(12) || ciphertext(len(plaintext)) || tag(16)`.

    `key` is 32 bytes, a prepared AESGCM of such a key, or None for the active master key.
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, plaintext, aad)


def open_sealed(blob: bytes, aad: bytes = b"", key: bytes | AESGCM | None = None) -> bytes:
    """The plaintext of a blob made by `seal` with the same associated data and key.

    Raises InvalidTag for a wrong key, wrong associated data, one flipped bit anywhere, or a blob
    too short to be one. There is no fallback of any kind.
    """
    if len(blob) < OVERHEAD_BYTES:
        raise InvalidTag()
    return _cipher(key).decrypt(bytes(blob[:NONCE_BYTES]), bytes(blob[NONCE_BYTES:]), aad)


def associated_data(*fields: str | bytes | int) -> bytes:
    """Fields joined so that no two different lists give the same bytes.

    Each field is a 4-byte big-endian length and its bytes (text as UTF-8, integers as decimal text).
    """
    parts = []
    for value in fields:
        raw = value if isinstance(value, bytes) else str(value).encode()
        parts += [len(raw).to_bytes(4, "big"), raw]
    return b"".join(parts)
