"""A user's wrapped keys, wrapped anew by what wraps now; the keys themselves stay, and so does all they have sealed.

Both steps bind the user and are short; between them, while a key server may be asked, no connection is held. Each key
is replaced by compare-and-set: one that went or changed meanwhile stays as it is, so an erased user stays erased.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.errors import KeyUnavailable
from memory.isolation.connection import Row
from memory.rls import tenant_transaction
from memory.sealing.profile import DATA_KEY_COLUMN, SEARCH_KEY_COLUMN
from memory.sealing.providers import KeyContext, unwrap_key, wrap_key
from memory.security import InvalidTag

_KEYS = """
SELECT %(data)s, generation, key_id, sealed_key FROM memory_data_keys WHERE user_hash = %(user_hash)s
UNION ALL
SELECT %(search)s, space, key_id, sealed_key FROM memory_search_keys WHERE user_hash = %(user_hash)s"""
_REPLACE = {
    DATA_KEY_COLUMN: """
UPDATE memory_data_keys SET key_id = %s, sealed_key = %s
WHERE user_hash = %s AND generation = %s AND key_id = %s AND sealed_key = %s""",
    SEARCH_KEY_COLUMN: """
UPDATE memory_search_keys SET key_id = %s, sealed_key = %s
WHERE user_hash = %s AND space = %s AND key_id = %s AND sealed_key = %s""",
}


@dataclass
class KeyCount:
    """Wrapped keys, by what became of them or what a look found."""

    done: int = 0
    # They changed or went between the look and the replacement.
    lost: int = 0
    # They do not open for where they stand.
    damaged: int = 0
    # What has wrapped them is not at hand, or cannot be asked.
    unavailable: int = 0


def rewrap_keys(user_hash: str, key_id: str, counted: KeyCount) -> None:
    """Wrap those of the user's keys anew that are not under `key_id`, which is what wraps now; counted as they go.

    What does not open is counted and left as it is. Raises KeyUnavailable where nothing can be wrapped, and database
    errors.
    """
    replacements = []
    for column, number, old_id, blob in _keys_of(user_hash):
        context = KeyContext(user_hash, column, number)
        if old_id == key_id or (key := _unwrapped(old_id, blob, context, counted)) is None:
            continue
        replacements.append((column, [*wrap_key(key, context), user_hash, number, old_id, blob]))
    if not replacements:
        return
    # Neither reads nor locks the tenant's row: nobody waits for a key that opens as before.
    with tenant_transaction(user_hash, write=True, reads_state=False) as tx:
        replaced = [tx.execute(_REPLACE[column], params) for column, params in replacements]
        tx.sync()
        done = sum(cursor.rowcount for cursor in replaced)
    counted.done += done
    counted.lost += len(replacements) - done


def verify_keys(user_hash: str, key_id: str, counted: KeyCount) -> int:
    """Open each of the user's keys; how many are not under `key_id`."""
    elsewhere = 0
    for column, number, found_id, blob in _keys_of(user_hash):
        elsewhere += found_id != key_id
        if _unwrapped(found_id, blob, KeyContext(user_hash, column, number), counted) is not None:
            counted.done += 1
    return elsewhere


def _keys_of(user_hash: str) -> list[Row]:
    names = {"user_hash": user_hash, "data": DATA_KEY_COLUMN, "search": SEARCH_KEY_COLUMN}
    with tenant_transaction(user_hash, reads_state=False) as tx:
        return [(*row[:3], bytes(row[3])) for row in tx.execute(_KEYS, names).fetchall()]


def _unwrapped(key_id: str, blob: bytes, context: KeyContext, counted: KeyCount) -> bytes | None:
    try:
        return unwrap_key(key_id, blob, context)
    except InvalidTag:
        counted.damaged += 1
    except KeyUnavailable:
        counted.unavailable += 1
    return None
