"""A key that was destroyed is forgotten by every process within a second, whether or not it is asked for.

`memory_key_changes` holds one counter for each first byte of a user's hash. Whoever destroys a key adds one to its
counter in the same transaction. As long as a process holds any opened key, a thread of it reads the counters every half
second over a connection of its own, which no full pool keeps waiting, and forgets the keys whose counter has changed:
the destroyed one, and about one in 256 of the others, which are opened again when they are needed.

While the database is away, keys stay for their own time and no longer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg

from memory.rls import TenantTransaction
from memory.sealing.apart import at_each_turn, connect_apart
from memory.sealing.key_cache import KeyCache

LOOK_SECONDS = 0.5
# A transaction that began before the erasure may hand its key to the cache after the change was seen. So what has
# changed is forgotten again for as long as such a transaction can run (r1_app's statement_timeout).
LATE_KEYS_SECONDS = 5.0

_NOTE = (
    "INSERT INTO memory_key_changes AS k (slot, changes) VALUES (%s, 1)"
    " ON CONFLICT (slot) DO UPDATE SET changes = k.changes + 1"
)
_LOOK = "SELECT slot, changes FROM memory_key_changes"

logger = logging.getLogger(__name__)


def slot_of(user_hash: str) -> int:
    """Which counter is a user's: 0 to 255."""
    return int(user_hash[:2], 16)


def note_key_change(tx: TenantTransaction) -> None:
    """Say, with the commit of `tx`, that a key of its tenant is gone or another one.

    The last statement of the transaction: until its end, others of the same slot wait for the row.
    """
    tx.execute(_NOTE, [slot_of(tx.user_hash)])


class KeyChanges:
    """Keeps one process's `cache` true to the counters. The thread runs while the cache holds a key."""

    def __init__(self, cache: KeyCache[Any]):
        self._cache = cache
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None
        # As of the last look ever: whatever is cached was read from the database after it, or is forgotten by the next.
        self._known: dict[int, int] | None = None
        # slot -> time.monotonic() until which its keys are forgotten at each look.
        self._late: dict[int, float] = {}

    def begin(self) -> None:
        """Look once, before there are keys, so that the first ones need not be forgotten. Never fails."""
        try:
            with connect_apart() as connection:
                self.look(connection)
        except psycopg.Error as exc:
            logger.warning("erasures elsewhere cannot be noticed yet (%s)", type(exc).__name__)

    def watch(self) -> None:
        """Begin to look, unless that is under way. Called with a key in the cache."""
        with self._lock:
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._run, name="key-changes", daemon=True)
                self._watcher.start()

    def look(self, connection: psycopg.Connection) -> None:
        """Read the counters and forget what they say is gone; at a process's first look, everything."""
        with connection.cursor() as cursor:
            found: dict[int, int] = dict(cursor.execute(_LOOK).fetchall())
        now = time.monotonic()
        if self._known is None:
            self._cache.forget()
        else:
            changed = {slot for slot in found.keys() | self._known.keys() if found.get(slot) != self._known.get(slot)}
            self._late |= dict.fromkeys(changed, now + LATE_KEYS_SECONDS)
            if self._late:
                self._forget(self._late)
        self._known = found
        self._late = {slot: until for slot, until in self._late.items() if until > now}

    def _forget(self, slots: Iterable[int]) -> None:
        gone = frozenset(slots)
        self._cache.forget_where(lambda user_hash: slot_of(user_hash) in gone)

    def _run(self) -> None:
        # By its name at each turn: a test may have it look away while this goes on.
        at_each_turn(
            self._turns(), lambda connection: self.look(connection), logger=logger,
            away="erasures elsewhere cannot be noticed",
        )  # fmt: skip

    def _turns(self) -> Iterator[None]:
        while self._goes_on():
            yield
            time.sleep(LOOK_SECONDS)

    def _goes_on(self) -> bool:
        """Whether there is anything to watch over; else the next key begins a new thread."""
        with self._lock:
            if len(self._cache):
                return True
            self._watcher = None
            return False
