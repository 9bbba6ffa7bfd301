"""The master keys (key-encryption keys) and the tenant HMAC key, parsed from the environment.

Pure: no Django. Two forms, never both:

* `MEMORY_ENCRYPTION_KEY` = base64 of 32 bytes. Its id is `k1`.
* `MEMORY_ENCRYPTION_KEYS` = `id:base64,id:base64` with `MEMORY_ENCRYPTION_ACTIVE_KEY` = id.

`MEMORY_TENANT_HMAC_KEY` = base64 of at least 32 bytes; `MEMORY_TENANT_HMAC_OTHER_KEY` = another one, while users are
renamed from one to the other.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from memory.errors import KeyUnavailable
from memory.keys.derivation import derived_key
from memory.keys.secret_files import ParsedSecrets, Secret, SettingError
from memory.keys.secret_strength import weak_secret_reason

MASTER_KEY_BYTES = 32
HMAC_KEY_MIN_BYTES = 32
SINGLE_KEY_ID = "k1"
KEY_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_single = Secret("MEMORY_ENCRYPTION_KEY")
_several = Secret("MEMORY_ENCRYPTION_KEYS")
_active = Secret("MEMORY_ENCRYPTION_ACTIVE_KEY")
_tenant_hmac = Secret("MEMORY_TENANT_HMAC_KEY")
_other_tenant_hmac = Secret("MEMORY_TENANT_HMAC_OTHER_KEY")


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
    if weak_secret_reason(raw):
        raise SettingError(f"{name} is not random; make one with `openssl rand -base64 32`")
    return raw


def parse_master_keys(single: str, several: str, active: str) -> MasterKeys:
    """Build MasterKeys from the three settings' texts. Raises SettingError."""
    if single and several:
        raise SettingError("set MEMORY_ENCRYPTION_KEY or MEMORY_ENCRYPTION_KEYS, not both")
    if single and active:
        raise SettingError("MEMORY_ENCRYPTION_ACTIVE_KEY goes with MEMORY_ENCRYPTION_KEYS, not with one key")
    if single:
        key = parse_key("MEMORY_ENCRYPTION_KEY", single, exactly=MASTER_KEY_BYTES)
        return MasterKeys(SINGLE_KEY_ID, {SINGLE_KEY_ID: key})
    if active and not several:
        raise SettingError("MEMORY_ENCRYPTION_ACTIVE_KEY goes with MEMORY_ENCRYPTION_KEYS, which is not set")
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


_master_keys = ParsedSecrets((_single, _several, _active), parse_master_keys, "the master keys do not fit together")
_parsed_hmac: bytes | None = None
_parsed_hmacs: tuple[bytes, ...] | None = None


def master_keys() -> MasterKeys:
    """The master keys as the environment has them now (files are looked at every 30 s).

    Files that do not fit together, being in the middle of a change, leave the last good keys in use.
    Raises SettingError where there never were any.
    """
    return _master_keys.value()


def has_master_keys() -> bool:
    """Whether any is configured: none need be where a key server wraps users' keys."""
    return bool(_single.value() or _several.value())


def tenant_hmac_key() -> bytes:
    """The key of `hmac_user`, at least 32 bytes. Raises SettingError when missing or weak.

    Read once a process: another key is another set of users, so it never changes under way.
    """
    global _parsed_hmac
    if _parsed_hmac is None:
        text = _tenant_hmac.value()
        if not text:
            raise SettingError("MEMORY_TENANT_HMAC_KEY is required: base64 of 32 random bytes")
        _parsed_hmac = parse_key("MEMORY_TENANT_HMAC_KEY", text, at_least=HMAC_KEY_MIN_BYTES)
    return _parsed_hmac


def tenant_hmac_keys() -> tuple[bytes, ...]:
    """`tenant_hmac_key()`, and behind it MEMORY_TENANT_HMAC_OTHER_KEY where that is set. Raises SettingError.

    Read once a process, as that one is.
    """
    global _parsed_hmacs
    if _parsed_hmacs is None:
        keys = [tenant_hmac_key()]
        if text := _other_tenant_hmac.value():
            keys.append(parse_key("MEMORY_TENANT_HMAC_OTHER_KEY", text, at_least=HMAC_KEY_MIN_BYTES))
        if len(set(keys)) < len(keys):
            raise SettingError("MEMORY_TENANT_HMAC_OTHER_KEY is the same key as MEMORY_TENANT_HMAC_KEY")
        _parsed_hmacs = tuple(keys)
    return _parsed_hmacs


def tenant_key_check(key: bytes | None = None) -> bytes:
    """32 bytes that tell a tenant HMAC key from any other; kept in the database, they give nothing of it away.

    Of MEMORY_TENANT_HMAC_KEY, where none is given. Derived under a label of their own, so that they are never what some
    user's id gives.
    """
    secret = tenant_hmac_key() if key is None else key
    return derived_key(secret, "tenant-key-check")


def forget_parsed_keys() -> None:
    """Read everything again at the next call. For tests, which change the environment of one process."""
    global _parsed_hmac, _parsed_hmacs
    _parsed_hmac = _parsed_hmacs = None
    _master_keys.forget()
