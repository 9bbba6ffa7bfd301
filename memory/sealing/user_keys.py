"""A user's keys, opened: data keys seal, search keys make vectors and terms comparable. Needs no database.

Each is 32 random bytes, stored only sealed under a master key. HKDF-SHA256 (RFC 5869) derives one sub-key a purpose
from it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from memory.keys.derivation import derived_key

Made = TypeVar("Made")


class Purpose(StrEnum):
    """What a sub-key is for. The value is part of its derivation and must never change."""

    # Of a data key.
    TEXT = "text"
    META = "meta"
    EMBEDDING = "embedding"
    CONTENT_MAC = "content-mac"
    IDEMPOTENCY = "idempotency"
    # Of a search key.
    ROTATION = "rotation"
    WORDS = "words"
    SPEAKERS = "speakers"


class UserKey:
    """One opened key of one user, and the sub-keys derived from it."""

    def __init__(self, user_hash: str, key: bytes):
        self.user_hash = user_hash
        self._key = key
        self._subkeys: dict[Purpose, bytes] = {}
        self._made: dict[Purpose, Any] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.user_hash[:8]}…)"

    def subkey(self, purpose: Purpose) -> bytes:
        """The 32-byte sub-key for one purpose."""
        if purpose not in self._subkeys:
            self._subkeys[purpose] = derived_key(self._key, purpose.value)
        return self._subkeys[purpose]

    def cached(self, purpose: Purpose, make: Callable[[bytes], Made]) -> Made:
        """`make(sub-key)`, made once and kept with the key: a cipher, a rotation. One kind a purpose."""
        if purpose not in self._made:
            self._made[purpose] = make(self.subkey(purpose))
        made: Made = self._made[purpose]
        return made


class DataKey(UserKey):
    """Seals a user's texts, metadata, vectors and answers, as one of his generations."""

    def __init__(self, user_hash: str, generation: int, key: bytes):
        super().__init__(user_hash, key)
        self.generation = generation

    def cipher(self, purpose: Purpose) -> AESGCM:
        """AES-256-GCM under the sub-key for one purpose."""
        return self.cached(purpose, AESGCM)

    def under(self, user_hash: str) -> DataKey:
        """The same key for the user under another name."""
        return DataKey(user_hash, self.generation, self._key)

    def sealed_by(self, wrap: Callable[[bytes, str, int], Made]) -> Made:
        """`wrap(the 32 bytes, user_hash, generation)`: to be stored."""
        return wrap(self._key, self.user_hash, self.generation)


class SearchKey(UserKey):
    """Rotates a user's vectors and blinds his terms in one space. It outlives the generations of his data key."""

    def __init__(self, user_hash: str, space: int, key: bytes):
        super().__init__(user_hash, key)
        self.space = space

    def under(self, user_hash: str) -> SearchKey:
        """The same key for the user under another name."""
        return SearchKey(user_hash, self.space, self._key)

    def sealed_by(self, wrap: Callable[[bytes, str, int], Made]) -> Made:
        """`wrap(the 32 bytes, user_hash, space)`: to be stored."""
        return wrap(self._key, self.user_hash, self.space)
