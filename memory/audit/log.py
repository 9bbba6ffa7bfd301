"""Who changed what about the service: a log that is appended to, each line sealed to the one before it by its hash.

Not the audit of isolation (`memory/isolation/audit.py`), which compares the database with what it should be. No line
holds a user id or anything that a user stored: a user is named by his hash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.db import connections

_APPEND = "INSERT INTO memory_audit (actor, action, subject, detail) VALUES (%s, %s, %s, %s::jsonb) RETURNING id"
_HEAD = "SELECT id, encode(hash, 'hex') FROM memory_audit ORDER BY id DESC LIMIT 1"
_AT = "SELECT encode(hash, 'hex') FROM memory_audit WHERE id = %s"
# The first line that is not what its hash says, does not follow the one before it, or has one missing before it.
_FIRST_BREAK = """
SELECT min(id) FROM (
    SELECT id, hash IS DISTINCT FROM memory_audit_hash(previous_hash, id, at, actor, action, subject, detail)
               OR previous_hash IS DISTINCT FROM coalesce(lag(hash) OVER chain, ''::bytea)
               OR id IS DISTINCT FROM coalesce(lag(id) OVER chain, 0) + 1 AS is_broken
    FROM memory_audit WINDOW chain AS (ORDER BY id)) lines
WHERE is_broken"""
_COUNT = "SELECT count(*) FROM memory_audit"


@dataclass(frozen=True)
class Anchor:
    """A line's id and the hash, in hex, that it had when somebody kept it elsewhere."""

    id: int
    hash: str


def record(
    *, actor: str, action: str, subject: str = "", detail: dict[str, Any] | None = None, alias: str = "maint"
) -> int:
    """Append one line and give its id; part of the transaction that is open on `alias`. Raises database errors."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_APPEND, [actor, action, subject, json.dumps(detail or {})])
        return cursor.fetchone()[0]


def head(alias: str = "maint") -> Anchor | None:
    """The newest line, to be kept elsewhere; None in an empty log."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_HEAD)
        row = cursor.fetchone()
    return None if row is None else Anchor(*row)


def first_break(anchor: Anchor | None = None, alias: str = "maint") -> int | None:
    """The id of the first line that was changed, or that stands where one was taken out or put in; None in a whole log.

    `anchor`: a line that was kept elsewhere, which must be there as it was.
    """
    with connections[alias].cursor() as cursor:
        cursor.execute(_FIRST_BREAK)
        [broken] = cursor.fetchone()
        if anchor is not None:
            cursor.execute(_AT, [anchor.id])
            row = cursor.fetchone()
            if row is None or row[0] != anchor.hash:
                broken = min(anchor.id, broken or anchor.id)
    return broken


def lines(alias: str = "maint") -> int:
    """How many there are."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_COUNT)
        return cursor.fetchone()[0]
