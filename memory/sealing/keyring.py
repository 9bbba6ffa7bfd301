"""Users' profiles in this process: made for a new user, cached, forgotten, and read anew when they no longer stand.

Opened keys are cached for a bounded time, and within a second of an erasure by another process they are forgotten
(`key_cache.py`, `key_changes.py`). Destroying a user's sealed keys is what erases him (crypto-shredding).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, overload
from uuid import uuid4

from django.conf import settings

from memory.embedding.spaces import default_space
from memory.errors import KeyUnavailable, StaleKeys
from memory.keys.master_keys import MASTER_KEY_BYTES, tenant_hmac_keys, tenant_key_check
from memory.rls import TenantTransaction, refuse_cross_tenant, tenant_transaction
from memory.sealing.key_cache import KeyCache
from memory.sealing.key_changes import KeyChanges
from memory.sealing.profile import DATA_KEY_COLUMN, SEARCH_KEY_COLUMN, SealedKey, TenantProfile, read_profile
from memory.sealing.user_keys import DataKey, Purpose
from memory.security import associated_data, hmac_user, open_sealed, seal

_INSERT_TENANT = """
INSERT INTO memory_tenants (user_hash, profile, user_id_cipher, active_space, seal_count, created_at)
SELECT %s, %s, %s, %s, 1, clock_timestamp()
WHERE NOT EXISTS (SELECT FROM memory_spaces WHERE is_default AND tenant_key_check <> %s)
ON CONFLICT (user_hash) DO NOTHING RETURNING true"""
INSERT_DATA_KEY = "INSERT INTO memory_data_keys (user_hash, generation, key_id, sealed_key) VALUES (%s, %s, %s, %s)"
INSERT_SEARCH_KEY = "INSERT INTO memory_search_keys (user_hash, space, key_id, sealed_key) VALUES (%s, %s, %s, %s)"

Result = TypeVar("Result")

_cache: KeyCache[TenantProfile] = KeyCache(
    lambda: settings.MEMORY_KEY_CACHE_SECONDS, lambda: settings.MEMORY_KEY_CACHE_TENANTS
)
_changes = KeyChanges(_cache)


@overload
def under_profile(user_hash: str, work: Callable[[TenantProfile], Result]) -> Result | None: ...
@overload
def under_profile(user_hash: str, work: Callable[[TenantProfile], Result], *, user_id: str) -> Result: ...
def under_profile(
    user_hash: str, work: Callable[[TenantProfile], Result], *, user_id: str | None = None
) -> Result | None:
    """`work(profile)` with the user's profile; None, with nothing done, where there is no such user.

    `work` verifies the profile inside its transaction (`TenantProfile.verify`). Where it does not stand any more, for
    the user was erased or a key or the space changed elsewhere, it is read anew and `work` is done once more. With
    `user_id` a new user is made. Raises StaleKeys when it changes all the time, and what `work` raises.
    """
    for _ in range(2):
        profile = existing_profile(user_hash) if user_id is None else existing_or_new_profile(user_hash, user_id)
        if profile is None:
            return None
        try:
            return work(profile)
        except StaleKeys:
            forget_profiles(user_hash)
    raise StaleKeys(retry_after_seconds=1)


def existing_profile(user_hash: str) -> TenantProfile | None:
    """The user's profile, from the cache or in a transaction of its own; None for a new user."""
    profile = _cache.get(user_hash)
    if profile is None:
        with tenant_transaction(user_hash) as tx:
            profile = read_profile(tx)
        if profile is not None:
            _keep(profile)
    return profile


def existing_or_new_profile(user_hash: str, user_id: str) -> TenantProfile:
    """The user's profile; the first write of a new user makes him, in the default space.

    Two first writes at once agree on one profile: the second waits for the first's row and reads it.
    """
    profile = existing_profile(user_hash)
    if profile is None:
        space = default_space()
        # Wrapped before there is a transaction, which would hold a connection while a key server is asked.
        keys = FirstKeys.made(user_hash, space)
        with tenant_transaction(user_hash, write=True) as tx:
            profile = create_tenant(tx, user_id, space, keys)
    return profile


@dataclass(frozen=True)
class FirstKeys:
    """What a new user begins with: a data key of generation 1, and a search key of the space he begins in."""

    data_key: DataKey
    wrapped_data_key: SealedKey
    wrapped_search_key: SealedKey

    @classmethod
    def made(cls, user_hash: str, space: int) -> FirstKeys:
        """New ones. Raises KeyUnavailable."""
        raw = os.urandom(MASTER_KEY_BYTES)
        return cls(
            DataKey(user_hash, 1, raw),
            SealedKey.of(raw, user_hash, DATA_KEY_COLUMN, 1),
            SealedKey.of(os.urandom(MASTER_KEY_BYTES), user_hash, SEARCH_KEY_COLUMN, space),
        )


def create_tenant(tx: TenantTransaction, user_id: str, space: int, keys: FirstKeys | None = None) -> TenantProfile:
    """Make the user with his first keys (made now, where none are given), unless another writer just did.

    The profile that stands. Raises KeyUnavailable, also where new users are not named by this key any more.
    """
    named_by = next((key for key in tenant_hmac_keys() if hmac_user(user_id, key) == tx.user_hash), None)
    if named_by is None:
        refuse_cross_tenant()
    keys = keys or FirstKeys.made(tx.user_hash, space)
    # Not now(), which is when the transaction began: a user who comes back must be younger than the erasure
    # that this statement may have waited for, or a replay of the ledger would erase them again.
    inserted = tx.execute(
        _INSERT_TENANT,
        [tx.user_hash, uuid4(), seal_user_id(keys.data_key, user_id), space, tenant_key_check(named_by)],
    ).fetchone()
    if inserted:
        data_key, search_key = keys.wrapped_data_key, keys.wrapped_search_key
        tx.execute(INSERT_DATA_KEY, [tx.user_hash, 1, data_key.key_id, data_key.blob])
        tx.execute(INSERT_SEARCH_KEY, [tx.user_hash, space, search_key.key_id, search_key.blob])
    tx.ask_state()
    profile = read_profile(tx)
    if profile is None:
        raise KeyUnavailable(retry_after_seconds=1)
    _keep(profile)
    return profile


def forget_profiles(user_hash: str | None = None) -> None:
    """Drop one user's profile, or all, from this process's cache."""
    _cache.forget(user_hash)


def begin_key_watch() -> None:
    """Take note of the erasures there have been, before this process's first key."""
    _changes.begin()


def seal_user_id(key: DataKey, user_id: str) -> bytes:
    """The user's id for `memory_tenants.user_id_cipher`, under the newest data key."""
    return seal(user_id.encode(), _user_id_aad(key), key.cipher(Purpose.META))


def open_user_id(key: DataKey, blob: bytes) -> str:
    """The inverse of `seal_user_id`. Raises InvalidTag."""
    return open_sealed(blob, _user_id_aad(key), key.cipher(Purpose.META)).decode()


def _user_id_aad(key: DataKey) -> bytes:
    return associated_data(key.user_hash, "memory_tenants.user_id_cipher", "", key.generation)


def _keep(profile: TenantProfile) -> None:
    if _cache.put(profile.user_hash, profile):
        _changes.watch()
