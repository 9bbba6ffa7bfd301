"""The master keys (key-encryption keys) and the tenant HMAC key, parsed from the environment.

Pure: no Django. Two forms, never both:

* `MEMORY_ENCRYPTION_KEY` = base64 of 32 bytes. Its id is `k1`.
* `MEMORY_ENCRYPTION_KEYS` = `id:base64,id:base64` with `MEMORY_ENCRYPTION_ACTIVE_KEY` = id.

`MEMORY_TENANT_HMAC_KEY` = base64 of at least 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from memory.environment import Secret, SettingError
from memory.errors import KeyUnavailable

MASTER_KEY_BYTES = 32
HMAC_KEY_MIN_BYTES = 32
SINGLE_KEY_ID = "k1"
KEY_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# A random 32-byte key has about 30 distinct bytes; 12 or fewer happens once in 10^20 keys.
DISTINCT_BYTES_MIN = 13

_single = Secret("MEMORY_ENCRYPTION_KEY")
_several = Secret("MEMORY_ENCRYPTION_KEYS")
_active = Secret("MEMORY_ENCRYPTION_ACTIVE_KEY")
_tenant_hmac = Secret("MEMORY_TENANT_HMAC_KEY")


@dataclass(frozen=True)
class MasterKeys:
    """Every master key this process knows, by id, and the id new data keys are sealed under."""

    active_id: str
    keys: dict[str, bytes] = field(repr=False)

    @property
    def active(self) -> bytes:
        """The 32 bytes of the active key."""
        return self.keys[self.active_id]

    def by_id(self, key_id: str) -> bytes:
        """The key with this id. Raises KeyUnavailable; there is no fallback to another key."""
        try:
            return self.keys[key_id]
        except KeyError:
            raise KeyUnavailable() from None


def parse_key(name: str, text: str, *, exactly: int | None = None, at_least: int = 0) -> bytes:
    """Decode base64 (standard or URL-safe alphabet). Raises SettingError naming the setting, never the value."""
    try:
        raw = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raise SettingError(f"{name} is not base64") from None
    if exactly is not None and len(raw) != exactly:
        raise SettingError(f"{name} must be {exactly} bytes in base64; it has {len(raw)}")
    if len(raw) < at_least:
        raise SettingError(f"{name} must be at least {at_least} bytes in base64; it has {len(raw)}")
    if len(set(raw)) < DISTINCT_BYTES_MIN:
        raise SettingError(f"{name} is not random: it repeats itself; make one with `openssl rand -base64 32`")
    return raw


def parse_master_keys(single: str, several: str, active: str) -> MasterKeys:
    """Build MasterKeys from the three settings' texts. Raises SettingError."""
    if single and several:
        raise SettingError("set MEMORY_ENCRYPTION_KEY or MEMORY_ENCRYPTION_KEYS, not both")
    if single:
        key = parse_key("MEMORY_ENCRYPTION_KEY", single, exactly=MASTER_KEY_BYTES)
        return MasterKeys(SINGLE_KEY_ID, {SINGLE_KEY_ID: key})
    if not several:
        raise SettingError("MEMORY_ENCRYPTION_KEY (or MEMORY_ENCRYPTION_KEYS) is required: base64 of 32 random bytes")
    keys: dict[str, bytes] = {}
    for entry in several.split(","):
        key_id, colon, text = entry.strip().partition(":")
        if not colon or not KEY_ID_PATTERN.fullmatch(key_id):
            raise SettingError("MEMORY_ENCRYPTION_KEYS must read id:base64,id:base64")
        if key_id in keys:
            raise SettingError(f"MEMORY_ENCRYPTION_KEYS names the id {key_id} twice")
        keys[key_id] = parse_key(f"MEMORY_ENCRYPTION_KEYS[{key_id}]", text, exactly=MASTER_KEY_BYTES)
    if active not in keys:
        raise SettingError("MEMORY_ENCRYPTION_ACTIVE_KEY must name one of the ids in MEMORY_ENCRYPTION_KEYS")
    return MasterKeys(active, keys)


_parsed: tuple[tuple[str, str, str], MasterKeys] | None = None
_parsed_hmac: tuple[str, bytes] | None = None


def master_keys() -> MasterKeys:
    """The master keys as the environment has them now (files are looked at every 30 s)."""
    global _parsed
    texts = (_single.value(), _several.value(), _active.value())
    if _parsed is None or _parsed[0] != texts:
        _parsed = (texts, parse_master_keys(*texts))
    return _parsed[1]


def tenant_hmac_key() -> bytes:
    """The key of `hmac_user`, at least 32 bytes. Raises SettingError when missing or weak."""
    global _parsed_hmac
    text = _tenant_hmac.value()
    if _parsed_hmac is None or _parsed_hmac[0] != text:
        if not text:
            raise SettingError("MEMORY_TENANT_HMAC_KEY is required: base64 of 32 random bytes")
        _parsed_hmac = (text, parse_key("MEMORY_TENANT_HMAC_KEY", text, at_least=HMAC_KEY_MIN_BYTES))
    return _parsed_hmac[1]
