"""Generations of a user's data key: a new one begins to seal at once, an old one goes when nothing needs it.

Every live generation opens; only the newest seals. What is searched by hangs on the search key, so a question finds
rows of all generations alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from uuid import uuid4

from memory import metrics
from memory.errors import DecryptionFailed, KeyUnavailable
from memory.keys.master_keys import MASTER_KEY_BYTES
from memory.rls import TenantTransaction
from memory.sealing.key_changes import note_key_change
from memory.sealing.keyring import INSERT_DATA_KEY, open_user_id, seal_user_id
from memory.sealing.profile import DATA_KEY_COLUMN, RENEW_PROFILE, SealedKey, TenantProfile
from memory.sealing.user_keys import DataKey
from memory.security import InvalidTag

IDEMPOTENCY_HOURS = 24

_USER_ID = "SELECT user_id_cipher FROM memory_tenants WHERE user_hash = %s"
_RECORD_SEALS = """
UPDATE memory_data_keys k SET seal_count = t.seal_count FROM memory_tenants t
WHERE k.user_hash = %(user_hash)s AND t.user_hash = %(user_hash)s AND k.generation = t.generation"""
_SWITCH = """
UPDATE memory_tenants SET generation = %s, seal_count = 1, user_id_cipher = %s, profile = %s, updated_at = now()
WHERE user_hash = %s"""
_STILL_NEEDED = """
SELECT EXISTS (SELECT FROM memory_chunks WHERE user_hash = %(user_hash)s AND generation = %(generation)s)
    OR EXISTS (SELECT FROM memory_documents WHERE user_hash = %(user_hash)s AND generation = %(generation)s)
    OR EXISTS (SELECT FROM memory_idempotency WHERE user_hash = %(user_hash)s AND generation = %(generation)s
               AND created_at > now() - make_interval(hours => %(hours)s))"""
_DELETE_IDEMPOTENCY = "DELETE FROM memory_idempotency WHERE user_hash = %s AND generation = %s"
_DELETE_KEY = "DELETE FROM memory_data_keys WHERE user_hash = %s AND generation = %s"


@dataclass(frozen=True)
class NextKey:
    """The data key that a user's next generation is to be, made and wrapped before there is a transaction."""

    key: DataKey
    wrapped: SealedKey

    @classmethod
    def after(cls, profile: TenantProfile) -> NextKey:
        """The one after `profile`'s newest. Raises KeyUnavailable."""
        raw, generation = os.urandom(MASTER_KEY_BYTES), profile.generation + 1
        wrapped = SealedKey.of(raw, profile.user_hash, DATA_KEY_COLUMN, generation)
        return cls(DataKey(profile.user_hash, generation, raw), wrapped)


def add_generation(tx: TenantTransaction, profile: TenantProfile, made: NextKey | None = None) -> int:
    """Give the user a new data key, from this transaction's commit on the one that seals; its generation.

    `tx` is a writing transaction, `profile` the one that stands. `made`: the key, made now where none is given, which
    holds a connection while a key server is asked. Raises StaleKeys where `profile` does not stand, KeyUnavailable,
    DecryptionFailed.
    """
    profile.verify(tx)
    [blob] = tx.execute(_USER_ID, [tx.user_hash]).fetchone()
    try:
        user_id = open_user_id(profile.newest, bytes(blob))
    except InvalidTag:
        metrics.decrypt_failed.labels("user_id_cipher").inc()
        raise DecryptionFailed() from None
    made = made or NextKey.after(profile)
    key, sealed, generation = made.key, made.wrapped, made.key.generation
    tx.execute(_RECORD_SEALS, {"user_hash": tx.user_hash})
    tx.execute(INSERT_DATA_KEY, [tx.user_hash, generation, sealed.key_id, sealed.blob])
    tx.execute(_SWITCH, [generation, seal_user_id(key, user_id), uuid4(), tx.user_hash])
    tx.ask_state()
    note_key_change(tx)
    return generation


def retire_generation(tx: TenantTransaction, profile: TenantProfile, generation: int) -> bool:
    """Destroy an old generation's key, unless a row or an unexpired answer still needs it; whether it is gone.

    `tx` is a writing transaction, whose lock of the tenant's row keeps every other writer out. Raises StaleKeys,
    and KeyUnavailable for the newest generation.
    """
    profile.verify(tx)
    if generation == profile.generation:
        raise KeyUnavailable("The newest generation seals; it cannot be retired.")
    params = {"user_hash": tx.user_hash, "generation": generation, "hours": IDEMPOTENCY_HOURS}
    if tx.execute(_STILL_NEEDED, params).fetchone()[0]:
        return False
    tx.execute(_DELETE_IDEMPOTENCY, [tx.user_hash, generation])
    tx.execute(_DELETE_KEY, [tx.user_hash, generation])
    tx.execute(RENEW_PROFILE, [uuid4(), tx.user_hash])
    tx.ask_state()
    note_key_change(tx)
    return True
