"""The row and the keys of a user under his new name, made before anything is copied for it.

Both names are looked at in one transaction, as r1_maint: an erasure under the old name either comes first, and nothing
is made, or finds what was made by the note of the move.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from memory.errors import StaleKeys
from memory.moving.move import Move, MoveLost
from memory.sealing.keyring import INSERT_DATA_KEY, INSERT_SEARCH_KEY, seal_user_id
from memory.sealing.profile import DATA_KEY_COLUMN, SEARCH_KEY_COLUMN, SealedKey, TenantProfile

_STANDS = """
SELECT t.state, t.profile, EXISTS (
    SELECT FROM memory_moves m
    WHERE m.user_hash = t.user_hash AND m.target_hash = %s AND m.state = 'copying')
FROM memory_tenants t WHERE t.user_hash = %s FOR UPDATE"""
_NEW_ROW = """
INSERT INTO memory_tenants
    (user_hash, profile, user_id_cipher, state, active_space, generation, seal_count, created_at)
SELECT %(target_hash)s, %(version)s, %(user_id)s, 'moving', active_space, generation, 1, created_at
FROM memory_tenants WHERE user_hash = %(user_hash)s
ON CONFLICT (user_hash) DO UPDATE SET
    generation = excluded.generation, user_id_cipher = excluded.user_id_cipher
    WHERE memory_tenants.state = 'moving'
RETURNING true"""
_GENERATIONS = "SELECT generation FROM memory_data_keys WHERE user_hash = %s"
_SEARCH_SPACES = "SELECT space FROM memory_search_keys WHERE user_hash = %s"


def require_standing(cursor: CursorWrapper, move: Move, profile: TenantProfile) -> None:
    """Lock the user's row under his old name, until the transaction of `cursor` (r1_maint's) ends.

    Raises MoveLost where he is not to be renamed any more, StaleKeys where `profile` does not stand.
    """
    cursor.execute(_STANDS, [move.target_hash, move.user_hash])
    row = cursor.fetchone()
    if row is None or row[0] != "active" or not row[2]:
        raise MoveLost()
    if row[1] != profile.version:
        raise StaleKeys(retry_after_seconds=1)


def make_tenant(maint: BaseDatabaseWrapper, move: Move, profile: TenantProfile, user_id: str) -> None:
    """Make the new name's row, in the state `moving`, and its keys; what is there already is brought up to date.

    Raises MoveLost also where somebody is served under that name, and as `require_standing`; KeyUnavailable,
    DecryptionFailed.
    """
    name = move.target_hash
    wrapped = {
        generation: profile.data_key(generation).under(name).sealed_by(_wrap_data) for generation in profile.generations
    }
    searching = profile.search_key.under(name).sealed_by(_wrap_search)
    params: dict[str, Any] = {
        "user_hash": move.user_hash, "target_hash": name, "version": uuid4(),
        "user_id": seal_user_id(profile.newest.under(name), user_id),
    }  # fmt: skip
    with transaction.atomic(using=maint.alias), maint.cursor() as cursor:
        require_standing(cursor, move, profile)
        cursor.execute(_NEW_ROW, params)
        if cursor.fetchone() is None:
            raise MoveLost()
        cursor.execute(_GENERATIONS, [name])
        there = {generation for (generation,) in cursor.fetchall()}
        for generation, key in wrapped.items():
            if generation not in there:
                cursor.execute(INSERT_DATA_KEY, [name, generation, key.key_id, key.blob])
        cursor.execute(_SEARCH_SPACES, [name])
        if (move.space,) not in cursor.fetchall():
            cursor.execute(INSERT_SEARCH_KEY, [name, move.space, searching.key_id, searching.blob])


def _wrap_data(key: bytes, user_hash: str, generation: int) -> SealedKey:
    return SealedKey.of(key, user_hash, DATA_KEY_COLUMN, generation)


def _wrap_search(key: bytes, user_hash: str, space: int) -> SealedKey:
    return SealedKey.of(key, user_hash, SEARCH_KEY_COLUMN, space)
