"""Which tenant HMAC key names users, and which one they are going to be named by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.embedding.spaces import forget_spaces
from memory.errors import MemoryServiceError
from memory.keys.fingerprints import fingerprint
from memory.keys.master_keys import tenant_hmac_keys, tenant_key_check
from memory.sealing.worker_reports import hold_reports, live_workers

LOCK_TRIES = 20

_NAMING = "SELECT tenant_key_check FROM memory_spaces WHERE is_default"
_KEYS = "SELECT fingerprint, named_since, left_at, retired_at FROM memory_hmac_keys ORDER BY named_since NULLS FIRST"
_PROMOTE = (
    "SET LOCAL lock_timeout = '1500ms'",
    # Whoever is making a user is through, and whoever begins to sees what is promoted.
    "LOCK TABLE memory_tenants IN SHARE MODE",
    "UPDATE memory_spaces SET tenant_key_check = %(check)s",
    "INSERT INTO memory_hmac_keys (fingerprint, left_at) VALUES (%(old)s, now())"
    " ON CONFLICT (fingerprint) DO UPDATE SET left_at = now()",
    "INSERT INTO memory_hmac_keys (fingerprint, named_since) VALUES (%(new)s, now())"
    " ON CONFLICT (fingerprint) DO UPDATE SET named_since = now(), left_at = NULL",
)


class Refused(MemoryServiceError):
    """What stands in the way of a step of the rotation, in words for the operator."""


@dataclass(frozen=True)
class Keys:
    """The key that users are renamed from, and the one to; whether the new one names new users already."""

    old: bytes = field(repr=False)
    new: bytes = field(repr=False)
    is_promoted: bool


def keys_to_rotate(connection: BaseDatabaseWrapper) -> Keys:
    """Which of the two keys of this process is the new one: the one that this database's users never were named by.

    Raises Refused.
    """
    if len(keys := tenant_hmac_keys()) < 2:
        raise Refused("MEMORY_TENANT_HMAC_OTHER_KEY is not set: there is no key to change to, or from")
    with connection.cursor() as cursor:
        cursor.execute(_NAMING)
        row = cursor.fetchone()
        cursor.execute(_KEYS)
        known = {name: (left_at, retired_at) for name, _, left_at, retired_at in cursor.fetchall()}
    current = next((key for key in keys if row and bytes(row[0]) == tenant_key_check(key)), None)
    if current is None:
        raise Refused("neither of the two tenant HMAC keys is the one that this database's users are named by")
    [other] = [key for key in keys if key is not current]
    left_at, retired_at = known.get(fingerprint(other), (None, None))
    if retired_at is not None:
        raise Refused("the other tenant HMAC key has been retired; a retired key names nobody again")
    return Keys(other, current, True) if left_at is not None else Keys(current, other, False)


def promote(connection: BaseDatabaseWrapper, keys: Keys) -> None:
    """Let new users be named by the new key, from now on, in every process.

    Raises Refused where a live worker lacks one of the two.
    """
    for attempt in range(LOCK_TRIES):
        try:
            with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
                hold_reports(connection)
                require_workers(connection, keys)
                params: dict[str, Any] = {
                    "old": fingerprint(keys.old),
                    "new": fingerprint(keys.new),
                    "check": tenant_key_check(keys.new),
                }
                for statement in _PROMOTE:
                    cursor.execute(statement, params if "%(" in statement else None)
        except OperationalError as exc:
            # Somebody writes for longer than the lock is waited for.
            if getattr(exc.__cause__, "sqlstate", None) != "55P03" or attempt + 1 == LOCK_TRIES:
                raise
        else:
            break
    forget_spaces()


def require_workers(connection: BaseDatabaseWrapper, keys: Keys) -> None:
    """Raises Refused where a live worker does not hold both keys: it would not find everybody."""
    wanted = {fingerprint(keys.old), fingerprint(keys.new)}
    lacking = [worker.name for worker in live_workers(connection) if not wanted <= set(worker.hmac_keys.values())]
    if lacking:
        raise Refused(f"not every worker holds both tenant HMAC keys: {', '.join(lacking)}")


def known_keys(connection: BaseDatabaseWrapper) -> Iterator[dict[str, Any]]:
    """What is known of each key: its fingerprint, and when it began and ceased to name users. Times in ISO 8601."""
    with connection.cursor() as cursor:
        cursor.execute(_KEYS)
        rows = cursor.fetchall()
    for name, *times in rows:
        yield {
            "fingerprint": name,
            **dict(zip(("named_since", "left_at", "retired_at"), map(_iso, times), strict=True)),
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
