"""Which master key wraps new keys: the one that an operator promoted last, or else the environment's active one.

`rotate_keys --promote` writes a row of `memory_master_keys`, once every live worker holds the key. Each worker reads it
with its own report, every few seconds (`worker_reports.py`); another process when it wraps. While it cannot be read the
last one stands. Whoever reads it late wraps under the key before, which opens as long as that one is not retired.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

import psycopg

from memory.errors import KeyUnavailable
from memory.keys.fingerprints import fingerprint
from memory.keys.master_keys import MasterKeys, has_master_keys, master_keys
from memory.keys.secret_files import SettingError
from memory.sealing.key_changes import connect_apart

REREAD_SECONDS = 15.0

_PROMOTED = """
SELECT key_id, fingerprint FROM memory_master_keys
WHERE promoted_at IS NOT NULL AND retired_at IS NULL ORDER BY promoted_at DESC LIMIT 1"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promoted:
    """A promoted master key: its id, and the fingerprint of the key that every worker had under it."""

    key_id: str
    fingerprint: str

    def is_held(self, masters: MasterKeys) -> bool:
        """Whether this very key is among `masters`."""
        key = masters.keys.get(self.key_id)
        return key is not None and fingerprint(key) == self.fingerprint


_lock = threading.Lock()
_promoted: Promoted | None = None
_next_read = 0.0


def read_promoted(connection: psycopg.Connection) -> Promoted | None:
    """The promoted key as it stands now, over r1_app's `connection` in autocommit; from here on this process's."""
    global _promoted, _next_read
    row = connection.execute(_PROMOTED).fetchone()
    _promoted = None if row is None else Promoted(*row)
    _next_read = time.monotonic() + REREAD_SECONDS
    return _promoted


def forget_promoted() -> None:
    """Read it again at the next look."""
    global _promoted, _next_read
    _promoted, _next_read = None, 0.0


def wrapping_key() -> tuple[str, bytes]:
    """(id, 32 bytes) of the master key that wraps new keys.

    Raises KeyUnavailable where the promoted one is not among this process's: no other takes its place. SettingError
    where there is none at all.
    """
    masters = master_keys()
    promoted = _present()
    if promoted is None:
        return masters.active_id, masters.active
    if not promoted.is_held(masters):
        raise KeyUnavailable()
    return promoted.key_id, masters.by_id(promoted.key_id)


def require_promoted_key() -> None:
    """Raises SettingError where a master key was promoted that this process does not hold, or holds another one for."""
    promoted = _present()
    if promoted is not None and has_master_keys() and not promoted.is_held(master_keys()):
        raise SettingError(
            f"the master key {promoted.key_id} wraps users' keys, and MEMORY_ENCRYPTION_KEYS has "
            + ("another key under that id" if promoted.key_id in master_keys().keys else "no such id")
        )


def _present() -> Promoted | None:
    """The promoted key, read again where that was long ago. One thread reads; the others go on with what there is."""
    global _next_read
    if time.monotonic() >= _next_read and _lock.acquire(blocking=False):
        try:
            with connect_apart() as connection:
                read_promoted(connection)
        except psycopg.Error as exc:
            _next_read = time.monotonic() + REREAD_SECONDS
            logger.warning("which master key is promoted cannot be read (%s)", type(exc).__name__)
        finally:
            _lock.release()
    return _promoted
