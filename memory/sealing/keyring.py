"""Per-user data keys: envelope encryption, and crypto-shredding by forgetting them.

Each user has a random 32-byte data key. It is stored only sealed under the active master key, in
`memory_data_keys`; HKDF-SHA256 (RFC 5869) derives one sub-key a purpose from it. Opened keys are
cached for a bounded time, and within a second of an erasure by another process they are forgotten
(`key_cache.py`, `key_changes.py`). In between, `matches()` ties every cached key to what the transaction
at hand reads, so that a key erased or rotated by another process is never used for a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeGuard, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from memory import metrics
from memory.errors import DecryptionFailed, KeyUnavailable
from memory.keys.derivation import derived_key
from memory.keys.master_keys import MASTER_KEY_BYTES, master_keys
from memory.rls import TenantState, TenantTransaction, refuse_cross_tenant, tenant_transaction
from memory.sealing.key_cache import KeyCache
from memory.sealing.key_changes import KeyChanges
from memory.security import InvalidTag, associated_data, hmac_user, open_sealed, seal

SEALS_ALERT = 2**31
SEALS_REFUSE = 2**32  # NIST SP 800-38D, 8.3: random 96-bit nonces under one key


Made = TypeVar("Made")


class Purpose(StrEnum):
    """What a sub-key is for. The value is part of its derivation and must never change."""

    TEXT = "text"
    META = "meta"
    EMBEDDING = "embedding"
    LEXICAL = "lexical"
    ROTATION = "rotation"
    CONTENT_MAC = "content-mac"
    IDEMPOTENCY = "idempotency"


class TenantKeys:
    """The opened data key of one tenant and generation, and the sub-keys derived from it."""

    def __init__(self, user_hash: str, generation: int, key_id: str, sealed_key: bytes, data_key: bytes):
        self.user_hash = user_hash
        self.generation = generation
        self._identity = (key_id, sealed_key)
        self._data_key = data_key
        self._subkeys: dict[Purpose, bytes] = {}
        self._made: dict[Purpose, Any] = {}

    def __repr__(self) -> str:
        return f"TenantKeys({self.user_hash[:8]}…, generation={self.generation})"

    def subkey(self, purpose: Purpose) -> bytes:
        """The 32-byte sub-key for one purpose."""
        if purpose not in self._subkeys:
            self._subkeys[purpose] = derived_key(self._data_key, purpose.value)
        return self._subkeys[purpose]

    def cipher(self, purpose: Purpose) -> AESGCM:
        """AES-256-GCM under the sub-key for one purpose."""
        return self.cached(purpose, AESGCM)

    def cached(self, purpose: Purpose, make: Callable[[bytes], Made]) -> Made:
        """`make(sub-key)`, made once and kept with the key: a cipher, a rotation. One kind a purpose."""
        if purpose not in self._made:
            self._made[purpose] = make(self.subkey(purpose))
        made: Made = self._made[purpose]
        return made

    def matches(self, state: TenantState | None) -> TypeGuard[TenantState]:
        """Whether this is the key that the transaction which read `state` must use.

        The sealed bytes and the master key they are sealed under are the key's identity: unlike its
        generation, they also tell a key made anew after an erasure from the one before.
        """
        return state is not None and (state.key_id, state.sealed_key) == self._identity


_cache: KeyCache[TenantKeys] = KeyCache(
    lambda: settings.MEMORY_KEY_CACHE_SECONDS, lambda: settings.MEMORY_KEY_CACHE_TENANTS
)
_changes = KeyChanges(_cache)


def existing_keys(user_hash: str) -> TenantKeys | None:
    """The tenant's active keys, from the cache or in a transaction of its own; None for a new user."""
    keys = _cache.get(user_hash)
    if keys is None:
        with tenant_transaction(user_hash) as tx:
            tx.end()
            state = tx.state()
        keys = None if state is None else open_state(user_hash, state)
    return keys


def existing_or_new_keys(user_hash: str, user_id: str) -> TenantKeys:
    """The tenant's active keys; the first write of a new user makes the tenant and its first key.

    Two first writes at once agree on one key: the second waits for the first's row and reads it.
    """
    keys = existing_keys(user_hash)
    if keys is None:
        with tenant_transaction(user_hash, write=True) as tx:
            keys = create_tenant(tx, user_id)
    return keys


def create_tenant(tx: TenantTransaction, user_id: str) -> TenantKeys:
    """Make the tenant row and its first data key, unless another writer just did; the keys that stand."""
    if hmac_user(user_id) != tx.user_hash:
        refuse_cross_tenant()
    data_key, master = os.urandom(MASTER_KEY_BYTES), master_keys()
    sealed_key = seal(data_key, _key_aad(tx.user_hash, 1, master.active_id), master.active)
    new = TenantKeys(tx.user_hash, 1, master.active_id, sealed_key, data_key)
    inserted = tx.execute(
        # Not now(), which is when the transaction began: a user who comes back must be younger than the erasure
        # that this statement may have waited for, or a replay of the ledger would erase them again.
        "INSERT INTO memory_tenants (user_hash, user_id_cipher, seal_count, created_at)"
        " VALUES (%s, %s, 1, clock_timestamp())"
        " ON CONFLICT (user_hash) DO NOTHING RETURNING true",
        [tx.user_hash, seal(user_id.encode(), user_id_aad(tx.user_hash, 1), new.cipher(Purpose.META))],
    ).fetchone()
    if inserted:
        tx.execute(
            "INSERT INTO memory_data_keys (user_hash, generation, key_id, sealed_key) VALUES (%s, 1, %s, %s)",
            [tx.user_hash, master.active_id, sealed_key],
        )
    state = tx.state(again=True)
    if state is None:
        raise KeyUnavailable(retry_after_seconds=1)
    return open_state(tx.user_hash, state)


def open_state(user_hash: str, state: TenantState) -> TenantKeys:
    """Open the data key a transaction read, and cache it.

    Raises KeyUnavailable when the row has no key or its master key is unknown, DecryptionFailed
    when the sealed key does not open. Never tries another key.
    """
    if state.sealed_key is None or state.key_id is None:
        raise KeyUnavailable()
    master = master_keys().by_id(state.key_id)
    try:
        data_key = open_sealed(state.sealed_key, _key_aad(user_hash, state.generation, state.key_id), master)
    except InvalidTag:
        metrics.decrypt_failed.labels("data_key").inc()
        raise DecryptionFailed() from None
    keys = TenantKeys(user_hash, state.generation, state.key_id, state.sealed_key, data_key)
    if _cache.put(user_hash, keys):
        _changes.watch()
    return keys


def require_seal_budget(state: TenantState) -> None:
    """Raise KeyUnavailable when the active key has sealed as often as it may; count a warning from half of it."""
    if state.seal_count >= SEALS_ALERT:
        metrics.keys_near_seal_limit.inc()
    if state.seal_count >= SEALS_REFUSE:
        raise KeyUnavailable("This user's key has sealed as much as it may; rotate it.")


def forget_keys(user_hash: str | None = None) -> None:
    """Drop one tenant's keys, or all, from this process's cache."""
    _cache.forget(user_hash)


def begin_key_watch() -> None:
    """Take note of the erasures there have been, before this process's first key."""
    _changes.begin()


def user_id_aad(user_hash: str, generation: int) -> bytes:
    """Associated data of `memory_tenants.user_id_cipher`."""
    return associated_data(user_hash, "memory_tenants.user_id_cipher", "", generation)


def _key_aad(user_hash: str, generation: int, key_id: str) -> bytes:
    return associated_data(user_hash, "memory_data_keys.sealed_key", key_id, generation)
