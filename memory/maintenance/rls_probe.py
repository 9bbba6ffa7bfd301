"""Two users against each other, for real, in transactions that are rolled back."""

from __future__ import annotations

import os
from collections.abc import Iterator

from django.db import DatabaseError, connections, transaction

from memory.rls import bind_transaction

_INSERT = """
INSERT INTO memory_tenants (user_hash, profile, user_id_cipher, active_space) VALUES (%s, gen_random_uuid(), %s, 0)"""
_VISIBLE = "SELECT user_hash FROM memory_tenants WHERE user_hash = ANY(%s)"
_SPOIL = {
    "UPDATE": "UPDATE memory_tenants SET seal_count = 7 WHERE user_hash = %s",
    "DELETE": "DELETE FROM memory_tenants WHERE user_hash = %s",
}


class _RollBack(Exception):
    """Leave the probe's transaction without a trace."""


def probe_two_users(using: str = "default") -> list[str]:
    """What user B could do to user A's row, as sentences; [] when nothing. Leaves no row behind.

    Non-vacuous: A must see the row before B is refused it.
    """
    connection = connections[using]
    findings: list[str] = []
    try:
        with transaction.atomic(using=using, durable=True), connection.cursor() as cursor:
            findings += _probe(connection, cursor)
            raise _RollBack
    except _RollBack:
        pass
    if not _refused(connection, "SELECT count(*) FROM memory_tenants", []):
        findings.append("a statement with no tenant bound was answered")
    connection.close()
    return findings


def _probe(connection, cursor) -> Iterator[str]:
    alice, bob = os.urandom(32).hex(), os.urandom(32).hex()
    bind_transaction(connection, alice)
    cursor.execute(_INSERT, [alice, b"probe"])
    cursor.execute(_VISIBLE, [[alice, bob]])
    if cursor.fetchall() != [(alice,)]:
        yield "a user does not see the row they just wrote: the probe proves nothing"
    bind_transaction(connection, bob)
    cursor.execute(_VISIBLE, [[alice, bob]])
    if cursor.fetchall():
        yield "a user sees another user's row"
    for command, sql in _SPOIL.items():
        cursor.execute(sql, [alice])
        if cursor.rowcount:
            yield f"a user can {command} another user's row"
    if not _refused(connection, _INSERT, [os.urandom(32).hex(), b"probe"]):
        yield "a user can INSERT a row for another user"


def _refused(connection, sql: str, params: list) -> bool:
    """Whether PostgreSQL refused with 42501; any other error is raised."""
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute(sql, params)
    except DatabaseError as exc:
        if getattr(exc.__cause__, "sqlstate", None) == "42501":
            return True
        raise
    return False
