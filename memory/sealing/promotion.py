"""Which master key wraps new keys: the one that an operator promoted last, or else the environment's active one.

`rotate_keys --promote` writes a row of `memory_master_keys`, once every live worker holds the key. Each worker reads it
with its own report, every few seconds (`worker_reports.py`); another process when it wraps. While it cannot be read
again the last one stands; until it was read once nothing is wrapped. Whoever reads it late wraps under the key before,
which opens as long as that one is not retired; under a retired one nothing is wrapped, whoever names it.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

import psycopg
from django.conf import settings

from memory.errors import KeyUnavailable, PromotionUnknown
from memory.keys.fingerprints import fingerprint
from memory.keys.master_keys import MasterKeys, has_master_keys, master_keys
from memory.keys.secret_files import SettingError
from memory.sealing.apart import connect_apart

REREAD_SECONDS = 15.0
# How long after a first read that failed the next one may follow, and how long others wait for one that is under way:
# longer than it may take to connect and to fail.
RETRY_SECONDS = 1.0
FIRST_READ_SECONDS = 8.0

_STANDING = """
SELECT key_id, fingerprint, retired_at IS NOT NULL FROM memory_master_keys
WHERE promoted_at IS NOT NULL OR retired_at IS NOT NULL ORDER BY promoted_at DESC NULLS LAST"""

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


@dataclass(frozen=True)
class Standing:
    """What the database says of master keys: which one is promoted, None where none is, and which ids are retired."""

    promoted: Promoted | None
    retired: frozenset[str]


_lock = threading.Lock()
# None: never read.
_standing: Standing | None = None
_next_read = 0.0


def read_promoted(connection: psycopg.Connection) -> Promoted | None:
    """The promoted key as it stands now, over r1_app's `connection` in autocommit; from here on this process's."""
    global _standing, _next_read
    rows = connection.execute(_STANDING).fetchall()
    retired = frozenset(key_id for key_id, _, is_retired in rows if is_retired)
    promoted = next((Promoted(key_id, mark) for key_id, mark, is_retired in rows if not is_retired), None)
    _standing = Standing(promoted, retired)
    _next_read = time.monotonic() + REREAD_SECONDS
    return promoted


def forget_promoted() -> None:
    """Read it again at the next look."""
    global _standing, _next_read
    _standing, _next_read = None, 0.0


def wrapping_key() -> tuple[str, bytes]:
    """(id, 32 bytes) of the master key that wraps new keys.

    Raises KeyUnavailable where the promoted one is not among this process's (no other takes its place) and where the
    one of the settings was retired, PromotionUnknown until the database was asked once. SettingError where there is
    none at all.
    """
    masters = master_keys()
    standing = _present()
    if standing is None:
        raise PromotionUnknown(retry_after_seconds=1)
    promoted = standing.promoted
    if promoted is None:
        if masters.active_id in standing.retired:
            raise KeyUnavailable()
        return masters.active_id, masters.active
    if not promoted.is_held(masters):
        raise KeyUnavailable()
    return promoted.key_id, masters.by_id(promoted.key_id)


def require_promoted_key() -> None:
    """Raises SettingError where this process has no key to wrap with, though the settings say it has.

    That is where a master key was promoted that it does not hold or holds another one for, and where the one that it
    would wrap with was retired. A database that cannot be asked is no reason: nothing is wrapped until it can.
    """
    standing = _present()
    if standing is None or not has_master_keys():
        return
    promoted, masters = standing.promoted, master_keys()
    if promoted is None:
        if settings.MEMORY_KEY_PROVIDER == "local" and masters.active_id in standing.retired:
            raise SettingError(f"MEMORY_ENCRYPTION_ACTIVE_KEY is {masters.active_id}, which was retired")
    elif not promoted.is_held(masters):
        raise SettingError(
            f"the master key {promoted.key_id} wraps users' keys, and MEMORY_ENCRYPTION_KEYS has "
            + ("another key under that id" if promoted.key_id in masters.keys else "no such id")
        )


def _present() -> Standing | None:
    """What stands, read again where that was long ago; None where it could never be read.

    One thread reads. The others go on with what there is; where there is nothing yet they wait for it.
    """
    global _next_read
    if time.monotonic() >= _next_read or _standing is None:
        first_seconds = FIRST_READ_SECONDS if _standing is None else 0.0
        if _lock.acquire(timeout=first_seconds):
            try:
                # Whoever waited finds it read, or that it cannot be read now.
                if time.monotonic() >= _next_read:
                    with connect_apart() as connection:
                        read_promoted(connection)
            except psycopg.Error as exc:
                _next_read = time.monotonic() + (RETRY_SECONDS if _standing is None else REREAD_SECONDS)
                logger.warning("which master key is promoted cannot be read (%s)", type(exc).__name__)
            finally:
                _lock.release()
    return _standing
