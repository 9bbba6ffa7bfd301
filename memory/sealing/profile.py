"""A user's profile: what must be known of him before his question is embedded or his text is sealed.

His keys, his active space, whether he has a vector index of his own there and his known speakers, as one transaction
read them, under a version that changes with each of them. Whoever goes on with a cached profile has it verified
inside the transaction that reads or writes his rows (`verify`), so that a key erased or rotated by another process is
never used for a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from memory import metrics
from memory.errors import DecryptionFailed, KeyUnavailable, StaleKeys
from memory.isolation.connection import Cursor
from memory.rls import TenantState, TenantTransaction
from memory.sealing.columns import open_speaker
from memory.sealing.providers import KeyContext, unwrap_key, wrap_key
from memory.sealing.user_keys import DataKey, SearchKey
from memory.security import InvalidTag

DATA_KEY_COLUMN = "memory_data_keys.sealed_key"
SEARCH_KEY_COLUMN = "memory_search_keys.sealed_key"
# As a key that does not open is counted.
_COUNTED_AS = {DATA_KEY_COLUMN: "data_key", SEARCH_KEY_COLUMN: "search_key"}

_DATA_KEYS = """
SELECT generation, key_id, sealed_key FROM memory_data_keys WHERE user_hash = %s ORDER BY generation DESC"""
_HAS_KEY = """
SELECT EXISTS (
    SELECT FROM memory_tenants t JOIN memory_data_keys k USING (user_hash, generation) WHERE t.user_hash = %s)"""
_SEARCH_KEY = """
SELECT k.key_id, k.sealed_key FROM memory_tenants t
JOIN memory_search_keys k ON k.user_hash = t.user_hash AND k.space = t.active_space
WHERE t.user_hash = %s"""


# Whoever changes what a profile holds gives it a new version (a UUID), in the same transaction.
RENEW_PROFILE = "UPDATE memory_tenants SET profile = %s, updated_at = now() WHERE user_hash = %s"
# Of more distinct speakers than this none is known by name: a profile is read and kept whole.
SPEAKERS_MAX = 1_000
# One document of each speaker, by as many looks into the index as there are speakers.
_SPEAKERS = """
WITH RECURSIVE known AS (
    (SELECT {columns} FROM memory_documents d
     WHERE user_hash = %(user_hash)s AND speaker IS NOT NULL ORDER BY speaker LIMIT 1)
    UNION ALL
    SELECT next.* FROM known k CROSS JOIN LATERAL (
        SELECT {columns} FROM memory_documents d
        WHERE user_hash = %(user_hash)s AND speaker IS NOT NULL AND speaker > k.speaker ORDER BY speaker LIMIT 1) next
)
SELECT * FROM known LIMIT {limit}""".format(
    limit=SPEAKERS_MAX + 1, columns="d.speaker, d.doc_id, d.generation, d.content_mac, d.speaker_cipher"
)


@dataclass(frozen=True)
class SealedName:
    """A known speaker: the blind id, and the name as one of the speaker's documents has it sealed."""

    speaker: int
    doc_id: str
    generation: int
    content_mac: bytes
    name_cipher: bytes


@dataclass(frozen=True)
class SealedKey:
    """A key as it is stored: 32 bytes wrapped by `key_id` (`providers.py`), bound to its user and to what it is."""

    key_id: str
    blob: bytes

    @classmethod
    def of(cls, key: bytes, user_hash: str, column: str, number: int) -> SealedKey:
        """Wrap a new key. `number`: its generation, or its space. Raises KeyUnavailable."""
        return cls(*wrap_key(key, KeyContext(user_hash, column, number)))

    def open(self, user_hash: str, column: str, number: int) -> bytes:
        """The 32 bytes. Raises DecryptionFailed where it does not open, KeyUnavailable where what wrapped it is away.

        No other key is ever tried.
        """
        try:
            return unwrap_key(self.key_id, self.blob, KeyContext(user_hash, column, number))
        except InvalidTag:
            metrics.decrypt_failed.labels(_COUNTED_AS[column]).inc()
            raise DecryptionFailed() from None


class TenantProfile:
    """One user's keys, active space and known speakers. A key is opened when it is first needed, and stays here."""

    def __init__(
        self, user_hash: str, version: UUID, space: int, generation: int,
        data_keys: Mapping[int, SealedKey], search_key: SealedKey | None, names: Sequence[SealedName] = (),
        *, has_own_index: bool = False,
    ):  # fmt: skip
        self.user_hash = user_hash
        self.version = version
        self.space = space
        self.generation = generation
        self.has_own_index = has_own_index
        self._sealed_data_keys = dict(data_keys)
        self._sealed_search_key = search_key
        self._names = tuple(names)
        self.speakers = frozenset(name.speaker for name in names)
        self._data_keys: dict[int, DataKey] = {}
        self._search_key: SearchKey | None = None

    def __repr__(self) -> str:
        return f"TenantProfile({self.user_hash[:8]}…, space={self.space}, generation={self.generation})"

    @property
    def generations(self) -> tuple[int, ...]:
        """Every live generation, the newest first."""
        return tuple(self._sealed_data_keys)

    @property
    def newest(self) -> DataKey:
        """The data key that seals. Raises as `data_key`."""
        return self.data_key(self.generation)

    def data_key(self, generation: int) -> DataKey:
        """The data key of a live generation.

        Raises KeyUnavailable for a generation that is not, and as `SealedKey.open`.
        """
        if generation not in self._data_keys:
            sealed = self._sealed_data_keys.get(generation)
            if sealed is None:
                raise KeyUnavailable()
            opened = sealed.open(self.user_hash, DATA_KEY_COLUMN, generation)
            self._data_keys[generation] = DataKey(self.user_hash, generation, opened)
        return self._data_keys[generation]

    @property
    def search_key(self) -> SearchKey:
        """The search key of the active space. Raises KeyUnavailable where there is none, and as `SealedKey.open`."""
        if self._search_key is None:
            if self._sealed_search_key is None:
                raise KeyUnavailable()
            opened = self._sealed_search_key.open(self.user_hash, SEARCH_KEY_COLUMN, self.space)
            self._search_key = SearchKey(self.user_hash, self.space, opened)
        return self._search_key

    @property
    def has_too_many_speakers(self) -> bool:
        """Whether there are more than SPEAKERS_MAX, so that `speakers` are not all of them."""
        return len(self.speakers) > SPEAKERS_MAX

    def speaker_names(self) -> Iterator[str]:
        """The name of each of `speakers`, opened; one that does not open is counted and left out."""
        for name in self._names:
            try:
                key = self.data_key(name.generation)
                yield open_speaker(key, name.doc_id, name.content_mac, name.name_cipher)
            except (InvalidTag, KeyUnavailable):
                metrics.decrypt_failed.labels("speaker_cipher").inc()

    def verify(self, tx: TenantTransaction) -> TenantState:
        """The tenant's state as `tx` sees it; raises StaleKeys unless this is the profile that `tx` must use."""
        state = tx.state()
        if state is None or state.profile != self.version:
            raise StaleKeys(retry_after_seconds=1)
        return state


def read_profile(tx: TenantTransaction) -> TenantProfile | None:
    """The profile as `tx` sees it; None where there is no such user.

    Raises KeyUnavailable where the key that seals is not there, and as `tx.state()`.
    """
    data_keys = tx.execute(_DATA_KEYS, [tx.user_hash])
    search_key = tx.execute(_SEARCH_KEY, [tx.user_hash])
    speakers = tx.execute(_SPEAKERS, {"user_hash": tx.user_hash})
    state = tx.state()
    if state is None:
        return None
    sealed = {generation: SealedKey(key_id, bytes(blob)) for generation, key_id, blob in data_keys.fetchall()}
    if state.generation not in sealed:
        raise KeyUnavailable()
    row = search_key.fetchone()
    found = None if row is None else SealedKey(row[0], bytes(row[1]))
    names = [SealedName(*row) for row in speakers.fetchall()]
    return TenantProfile(
        tx.user_hash, state.profile, state.active_space, state.generation, sealed, found, names,
        has_own_index=state.indexed_space == state.active_space,
    )  # fmt: skip


def ask_key(tx: TenantTransaction) -> Cursor:
    """Ask whether the user has the key that seals, for what opens nothing; `require_key` takes the answer."""
    return tx.execute(_HAS_KEY, [tx.user_hash])


def require_key(tx: TenantTransaction, asked: Cursor) -> TenantState | None:
    """The tenant's state; None where there is no such user. Raises KeyUnavailable where he is there without a key."""
    state, [has_key] = tx.state(), asked.fetchone()
    if state is not None and not has_key:
        raise KeyUnavailable()
    return state
