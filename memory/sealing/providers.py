"""Who wraps users' keys: this process with its master keys, or a key server that never gives its own away.

A provider does two things with a key of 32 bytes: it wraps it, bound to a context, and unwraps what it has wrapped.
Each wrapped key names who wrapped it: `k1` and the like are master keys, `transit:NAME:VERSION` is the key server's.
What wraps new keys is a setting; what was wrapped before opens as long as its own provider can be asked, so that a
deployment may move from one to the other key by key. There is no fallback: no provider ever opens another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from django.conf import settings

from memory import metrics
from memory.admission.deadline import remaining_seconds
from memory.errors import KeyUnavailable
from memory.keys.master_keys import has_master_keys, master_keys
from memory.keys.secret_files import Secret, SettingError
from memory.keys.transit import NotAuthentic, Transit, TransitAddress
from memory.sealing.promotion import wrapping_key
from memory.security import InvalidTag, associated_data, open_sealed, seal

TRANSIT_PREFIX = "transit:"

_token = Secret("MEMORY_TRANSIT_TOKEN")


@dataclass(frozen=True)
class KeyContext:
    """What a wrapped key belongs to: its user, its column, and its generation or space."""

    user_hash: str
    column: str
    number: int

    def bound_to(self, key_name: str) -> bytes:
        """The associated data of the key as `key_name` wraps it."""
        return associated_data(self.user_hash, self.column, key_name, self.number)


class KeyProvider(Protocol):
    """Any thread may call. Both raise KeyUnavailable where the provider cannot be asked."""

    def wrap(self, key: bytes, context: KeyContext) -> tuple[str, bytes]:
        """(key id, blob of 60 bytes): `key`, 32 bytes, under the provider's newest key."""

    def unwrap(self, key_id: str, blob: bytes, context: KeyContext) -> bytes:
        """The inverse of `wrap`. Raises InvalidTag for another context or a changed blob."""


class MasterKeyProvider:
    """The master keys of the environment (`memory.keys.master_keys`); which of them wraps, `promotion.py` says."""

    def wrap(self, key: bytes, context: KeyContext) -> tuple[str, bytes]:
        key_id, master = wrapping_key()
        return key_id, seal(key, context.bound_to(key_id), master)

    def unwrap(self, key_id: str, blob: bytes, context: KeyContext) -> bytes:
        if not has_master_keys():
            raise KeyUnavailable()
        return open_sealed(blob, context.bound_to(key_id), master_keys().by_id(key_id))


class TransitProvider:
    """The key server (`memory.keys.transit`), for at most MEMORY_TRANSIT_SECONDS of a request's time a call.

    A key is bound to the server's key by name; which version of that has wrapped it stands in its id.
    """

    def __init__(self, transit: Transit):
        self._transit = transit
        self._name = TRANSIT_PREFIX + transit.key_name

    def wrap(self, key: bytes, context: KeyContext) -> tuple[str, bytes]:
        version, blob = self._transit.wrap(key, context.bound_to(self._name), timeout_seconds=_patience_seconds())
        return f"{self._name}:{version}", blob

    def unwrap(self, key_id: str, blob: bytes, context: KeyContext) -> bytes:
        name, _, version = key_id.rpartition(":")
        if name != self._name or not version.isdecimal():
            raise KeyUnavailable()
        try:
            return self._transit.unwrap(int(version), blob, context.bound_to(name), timeout_seconds=_patience_seconds())
        except NotAuthentic:
            raise InvalidTag() from None


def wrap_key(key: bytes, context: KeyContext) -> tuple[str, bytes]:
    """(key id, blob): `key` wrapped by MEMORY_KEY_PROVIDER. Raises KeyUnavailable."""
    return _provider(settings.MEMORY_KEY_PROVIDER).wrap(key, context)


def unwrap_key(key_id: str, blob: bytes, context: KeyContext) -> bytes:
    """The key, by whoever wrapped it. Raises InvalidTag, KeyUnavailable."""
    name = "transit" if key_id.startswith(TRANSIT_PREFIX) else "local"
    return _provider(name).unwrap(key_id, blob, context)


def current_key_id() -> str:
    """The id that a key wrapped now gets: of the master key, or of the key server's newest version.

    Raises KeyUnavailable where nothing can be wrapped now.
    """
    return wrap_key(bytes(32), _NOBODYS)[0]


def wraps_with() -> str | None:
    """What wraps this process's new keys: a master key's id, or `transit:NAME`, whose version the key server chooses.

    None where nothing can be wrapped now. Asks no key server. Raises SettingError.
    """
    if settings.MEMORY_KEY_PROVIDER != "local":
        return TRANSIT_PREFIX + settings.MEMORY_TRANSIT_KEY
    try:
        return wrapping_key()[0]
    except KeyUnavailable:
        return None


def is_wrapped_with(key_id: str, wraps: str | None) -> bool:
    """Whether what wraps as `wraps_with` says may make keys of this id, as far as the newest of a server's goes."""
    return wraps == (key_id.rpartition(":")[0] if key_id.startswith(TRANSIT_PREFIX) else key_id)


def require_key_providers() -> None:
    """Raises SettingError unless the provider of new keys is configured, and what else is configured is sound."""
    if settings.MEMORY_KEY_PROVIDER == "local" or has_master_keys():
        master_keys()
    if settings.MEMORY_KEY_PROVIDER == "transit" or settings.MEMORY_TRANSIT_URL:
        _transit()


def probe_key_provider() -> None:
    """Wrap and unwrap a key of nobody's. Raises KeyUnavailable; InvalidTag where the provider contradicts itself."""
    unwrap_key(*wrap_key(bytes(32), _NOBODYS), _NOBODYS)


def forget_key_providers() -> None:
    """Make them anew at the next call. For tests, which change the settings of one process."""
    _transit.cache_clear()


def _provider(name: str) -> KeyProvider:
    if name == "local":
        return _LOCAL
    try:
        return TransitProvider(_transit())
    except SettingError as exc:
        # Settings are looked at before the start; a key of a server that is configured no more comes here.
        raise KeyUnavailable(str(exc)) from None


_LOCAL = MasterKeyProvider()
_NOBODYS = KeyContext("0" * 64, "probe", 0)


@lru_cache(maxsize=1)
def _transit() -> Transit:
    if not settings.MEMORY_TRANSIT_URL:
        raise SettingError("MEMORY_TRANSIT_URL is required where MEMORY_KEY_PROVIDER is transit")
    if not _token.value():
        raise SettingError("MEMORY_TRANSIT_TOKEN (or MEMORY_TRANSIT_TOKEN_FILE) is required to ask the key server")
    address = TransitAddress(
        settings.MEMORY_TRANSIT_URL, settings.MEMORY_TRANSIT_MOUNT, settings.MEMORY_TRANSIT_KEY, _token.value,
        settings.MEMORY_TRANSIT_NAMESPACE, settings.MEMORY_TRANSIT_CA,
    )  # fmt: skip
    try:
        return Transit(address, observe=_observe)
    except OSError as exc:
        raise SettingError(f"MEMORY_TRANSIT_CA cannot be used ({type(exc).__name__})") from None


def _patience_seconds() -> float:
    return remaining_seconds(settings.MEMORY_TRANSIT_SECONDS)


def _observe(operation: str, outcome: str, elapsed_ms: float) -> None:
    metrics.key_provider_ms.labels(operation).observe(elapsed_ms)
    if outcome != "ok":
        metrics.key_provider_failed.labels(operation, outcome).inc()
