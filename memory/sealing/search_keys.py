"""A user's search key of another space, and the step into that space.

Whoever moves a user makes the key first, copies his memory under it, and switches last; until then every question is
asked, and everything new is stored, in the space where he is.
"""

from __future__ import annotations

import os
from uuid import uuid4

from memory.errors import KeyUnavailable
from memory.keys.master_keys import MASTER_KEY_BYTES
from memory.rls import TenantTransaction
from memory.sealing.key_changes import note_key_change
from memory.sealing.keyring import INSERT_SEARCH_KEY
from memory.sealing.profile import SEARCH_KEY_COLUMN, SealedKey
from memory.sealing.user_keys import SearchKey

_HAS_KEY = "SELECT EXISTS (SELECT FROM memory_search_keys WHERE user_hash = %s AND space = %s)"
_KEY = "SELECT key_id, sealed_key FROM memory_search_keys WHERE user_hash = %s AND space = %s"
_SWITCH = "UPDATE memory_tenants SET active_space = %s, profile = %s, updated_at = now() WHERE user_hash = %s"


def add_search_key(tx: TenantTransaction, space: int) -> None:
    """Make the user's search key of `space`, unless there is one. `tx` is a writing transaction.

    Raises KeyUnavailable where there is no such user.
    """
    _require_tenant(tx)
    if tx.execute(_HAS_KEY, [tx.user_hash, space]).fetchone()[0]:
        return
    sealed = SealedKey.of(os.urandom(MASTER_KEY_BYTES), tx.user_hash, SEARCH_KEY_COLUMN, space)
    tx.execute(INSERT_SEARCH_KEY, [tx.user_hash, space, sealed.key_id, sealed.blob])


def open_search_key(tx: TenantTransaction, space: int) -> SearchKey:
    """The user's search key of any of his spaces. Raises KeyUnavailable, DecryptionFailed."""
    row = tx.execute(_KEY, [tx.user_hash, space]).fetchone()
    if row is None:
        raise KeyUnavailable()
    key_id, blob = row
    return SearchKey(
        tx.user_hash, space, SealedKey(key_id, bytes(blob)).open(tx.user_hash, SEARCH_KEY_COLUMN, space)
    )  # fmt: skip


def switch_space(tx: TenantTransaction, space: int) -> None:
    """Make `space` the user's active one, from the commit of `tx` on, in every process.

    Moves no row: what was not copied before is not found after. `memory/moving/` copies, and looks before it switches.
    Raises KeyUnavailable without a key of that space.
    """
    _require_tenant(tx)
    if not tx.execute(_HAS_KEY, [tx.user_hash, space]).fetchone()[0]:
        raise KeyUnavailable()
    tx.execute(_SWITCH, [space, uuid4(), tx.user_hash])
    # What is written later in this transaction must know of it.
    tx.ask_state()
    note_key_change(tx)


def _require_tenant(tx: TenantTransaction) -> None:
    if tx.state() is None:
        raise KeyUnavailable()
