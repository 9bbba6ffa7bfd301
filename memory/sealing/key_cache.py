"""Users' opened keys in this process's memory: a bounded number of them, each for a bounded time.

A key whose time is up is dropped by a thread of its own, whether or not anybody asks for it again. The thread begins
with the first key, so after a server's fork, sleeps until the oldest key's time is up, and ends with the last key.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Keys = TypeVar("Keys")


class KeyCache(Generic[Keys]):
    """user_hash -> opened keys: those used last, at most `max_tenants()` of them, each for `lifetime_seconds()`.

    Holds the only lasting reference to what is in it. Both limits are asked at each `put`.
    """

    def __init__(self, lifetime_seconds: Callable[[], float], max_tenants: Callable[[], int]):
        self._lifetime_seconds = lifetime_seconds
        self._max_tenants = max_tenants
        self._changed = threading.Condition(threading.Lock())
        self._by_use: OrderedDict[str, Keys] = OrderedDict()
        # user_hash -> time.monotonic() at which it goes, in that order: all of them live equally long.
        self._by_age: OrderedDict[str, float] = OrderedDict()
        self._sweeper: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._by_use)

    def get(self, user_hash: str) -> Keys | None:
        """The keys put there last, unless their time is up."""
        with self._changed:
            if time.monotonic() >= self._by_age.get(user_hash, 0.0):
                self._drop(user_hash)
                return None
            self._by_use.move_to_end(user_hash)
            return self._by_use[user_hash]

    def put(self, user_hash: str, keys: Keys) -> bool:
        """Keep `keys` in place of what was there; whether it is kept, which a lifetime of 0 forbids."""
        lifetime_seconds = self._lifetime_seconds()
        with self._changed:
            self._drop(user_hash)
            if lifetime_seconds <= 0:
                return False
            self._by_use[user_hash] = keys
            self._by_age[user_hash] = time.monotonic() + lifetime_seconds
            while len(self._by_use) > self._max_tenants():
                self._drop(next(iter(self._by_use)))
            # After a fork the parent's thread is not alive here.
            if self._sweeper is None or not self._sweeper.is_alive():
                self._sweeper = threading.Thread(target=self._sweep, name="key-cache", daemon=True)
                self._sweeper.start()
        return True

    def forget(self, user_hash: str | None = None) -> None:
        """Drop one tenant's keys, or all."""
        if user_hash is None:
            self.forget_where(lambda cached: True)
        else:
            self._forget([user_hash])

    def forget_where(self, is_to_go: Callable[[str], bool]) -> None:
        """Drop the keys of the tenants whose hash `is_to_go`."""
        with self._changed:
            cached = list(self._by_use)
        self._forget([user_hash for user_hash in cached if is_to_go(user_hash)])

    def _forget(self, user_hashes: list[str]) -> None:
        with self._changed:
            for user_hash in user_hashes:
                self._drop(user_hash)
            self._changed.notify_all()

    def _drop(self, user_hash: str) -> None:
        self._by_use.pop(user_hash, None)
        self._by_age.pop(user_hash, None)

    def _sweep(self) -> None:
        """The thread. It handles hashes and times only, so that it never holds a key itself."""
        with self._changed:
            while self._by_age:
                user_hash, goes_at = next(iter(self._by_age.items()))
                left_seconds = goes_at - time.monotonic()
                if left_seconds <= 0:
                    self._drop(user_hash)
                else:
                    self._changed.wait(left_seconds)
            self._sweeper = None
