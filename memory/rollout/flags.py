"""Settings that change at run time: a row of `memory_flags` wins over the environment's default.

Each worker reads the table again at most every half second, by whichever request comes first, so a
change is on all workers within a second. While the table cannot be read the last values stand.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections, transaction
from django.db.models.functions import Now

from memory import metrics
from memory.audit.log import record
from memory.models import Flag
from reranker import BACKEND_CHOICES

REREAD_SECONDS = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlagKind:
    """How a flag's value is checked; `says` tells a person what it may be."""

    is_valid: Callable[[Any], bool]
    says: str


def _whole(low: int, high: int) -> FlagKind:
    return FlagKind(
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"a whole number from {low} to {high}",
    )


_SWITCH = FlagKind(lambda value: isinstance(value, bool), "true or false")

# The default of each is the Django setting of the same name.
FLAGS = {
    "MEMORY_ENABLED": _SWITCH,
    "MEMORY_CANARY_PCT": _whole(0, 100),
    "RERANK_ENABLED": _SWITCH,
    "RERANK_CIRCUIT_MS": _whole(1, 10_000),
    "RERANK_POOL": _whole(1, 100),
    "RERANK_BACKEND": FlagKind(lambda value: value in BACKEND_CHOICES, f"one of {', '.join(BACKEND_CHOICES)}"),
}

_lock = threading.Lock()
_rows: dict[str, Any] = {}
_passed_over: frozenset[str] = frozenset()
_next_read = 0.0


def flag(name: str, *, refresh: bool = True) -> Any:
    """The present value of a flag of FLAGS; the last one known where `refresh` is False, which asks no database."""
    if refresh:
        refresh_flags()
    value = _rows.get(name)
    return value if value is not None and FLAGS[name].is_valid(value) else getattr(settings, name)


def set_flag(name: str, value: Any, *, actor: str, alias: str = "maint") -> None:
    """Write a flag's row, as r1_maint or, on the `alias` staff, as r1_staff; None removes it.

    `actor`: who wants it, for the audit log, whose line comes with the change or not at all. Raises ValueError for a
    value it may not have.
    """
    if name not in FLAGS:
        raise ValueError(f"there is no flag {name}; there are {', '.join(FLAGS)}")
    if value is not None and not FLAGS[name].is_valid(value):
        raise ValueError(f"{name} must be {FLAGS[name].says}")
    rows = Flag.objects.using(alias)
    with transaction.atomic(using=alias):
        if value is None:
            rows.filter(name=name).delete()
        else:
            row = Flag(name=name, value=value, updated_at=Now())
            rows.bulk_create(
                [row], update_conflicts=True, unique_fields=["name"], update_fields=["value", "updated_at"]
            )
        action = "flag.set" if value is not None else "flag.clear"
        record(actor=actor, action=action, subject=name, detail={"to": value}, alias=alias)
    logger.warning("%s is set to %s by %s", name, "the setting" if value is None else value, actor)


def forget_flags() -> None:
    """Read the table again at the next look."""
    global _next_read
    _next_read = 0.0


def read_flags() -> dict[str, Any]:
    """The present value of every flag, read now. Raises database errors, where `flag` goes on with the last values."""
    _take(_read())
    return {name: flag(name, refresh=False) for name in FLAGS}


def _read() -> dict[str, Any]:
    """The table's rows. The connection goes back to the pool, unless a transaction of the caller's is open on it."""
    connection = connections["default"]
    try:
        return dict(Flag.objects.using(connection.alias).values_list("name", "value"))
    finally:
        if not connection.in_atomic_block:
            connection.close()


def _take(rows: dict[str, Any]) -> None:
    """Go by these rows. A value that its flag may not have, as one of another version, is said once and not gone by."""
    global _rows, _passed_over
    _rows = rows
    metrics.enabled.set(flag("MEMORY_ENABLED", refresh=False))
    metrics.canary_percent.set(flag("MEMORY_CANARY_PCT", refresh=False))
    before = _passed_over
    _passed_over = frozenset(name for name, kind in FLAGS.items() if name in rows and not kind.is_valid(rows[name]))
    for name in sorted(_passed_over - before):
        logger.warning("the stored value of %s is not %s; the setting stands", name, FLAGS[name].says)


def refresh_flags() -> None:
    """Read the table if it is time. One thread reads; the others go on with what they have."""
    global _next_read
    if time.monotonic() < _next_read or not _lock.acquire(blocking=False):
        return
    try:
        _take(_read())
    except DatabaseError as exc:
        logger.warning("flags cannot be read (%s); the last values stand", type(exc).__name__)
    finally:
        _next_read = time.monotonic() + REREAD_SECONDS
        _lock.release()
