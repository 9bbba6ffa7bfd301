"""Embedding spaces: a small integer for one model, one way of chunking and one protection scheme.

Vectors of two spaces must never be compared, so a chunk's key holds its space and the service
refuses to run with settings that describe another space than the active one.
"""

from __future__ import annotations

import hashlib
import json

from django.conf import settings
from django.db import connections

from memory.errors import SpaceMismatch
from memory.keys.master_keys import former_tenant_key_check, tenant_key_check
from memory.limits import CHUNK_MAX_CHARS

# Raised when chunking, rotation or sealing of vectors changes so that old and new must not mix.
SCHEME_VERSION = 1

_registered: tuple[int, str, bytes] | None = None


def describe(embedder) -> dict:
    """What the present settings and the loaded model amount to."""
    return {
        "scheme": SCHEME_VERSION,
        "model": embedder.model_name,
        "weights_sha256": embedder.weights_sha256,
        "dimension": embedder.dimension,
        "chunk_tokens": embedder.max_tokens,
        "chunk_overlap": settings.MEMORY_CHUNK_OVERLAP,
        "chunk_max_chars": CHUNK_MAX_CHARS,
        "protection": settings.MEMORY_EMBEDDING_PROTECTION,
    }


def fingerprint(description: dict) -> str:
    """SHA-256 over the description, without the model's name: the same weights from another folder are the same."""
    same = {key: value for key, value in description.items() if key != "model"}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def active_space(embedder) -> int:
    """The number of the active space. Raises SpaceMismatch when settings, model or tenant key are of another one."""
    if _active_row()[1] != fingerprint(describe(embedder)):
        raise SpaceMismatch()
    return registered_space()


def registered_space() -> int:
    """The number of the active space, for callers that bring vectors of its model themselves.

    Raises SpaceMismatch where MEMORY_TENANT_HMAC_KEY is not the key that this database's users are named by.
    """
    space, _, key_check = _active_row()
    if key_check == former_tenant_key_check():
        raise SpaceMismatch("The tenant key check is an earlier version's; run `manage.py register_space`.")
    if key_check != tenant_key_check():
        raise SpaceMismatch("MEMORY_TENANT_HMAC_KEY is not the key that this database's users are named by.")
    return space


def forget_space() -> None:
    """Look the active space up again at the next call."""
    global _registered
    _registered = None


def renew_tenant_key_check() -> None:
    """As the owner, put the present check in place of an earlier version's, where that one was of this same key."""
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "UPDATE memory_spaces SET tenant_key_check = %s WHERE tenant_key_check = %s",
            [tenant_key_check(), former_tenant_key_check()],
        )


def _active_row() -> tuple[int, str, bytes]:
    """(space, fingerprint, tenant key check) of the active space, looked up once a process."""
    global _registered
    if _registered is None:
        connection = connections["default"]
        with connection.cursor() as cursor:
            cursor.execute("SELECT space, fingerprint, tenant_key_check FROM memory_spaces WHERE active")
            row = cursor.fetchone()
        if not connection.in_atomic_block:
            connection.close()
        if row is None:
            raise SpaceMismatch("No embedding space is registered; run `manage.py register_space`.")
        _registered = (row[0], row[1], bytes(row[2]))
    return _registered


def register_space(embedder) -> tuple[int, bool]:
    """Register the present settings as a space, active if it is the first: (number, is it the active one).

    Runs as the owner, who alone may write this table. A second space stays inactive until a re-index.
    """
    description = describe(embedder)
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO memory_spaces (space, fingerprint, description, active, tenant_key_check)
            SELECT coalesce(max(space), 0) + 1, %s, %s::jsonb, count(*) = 0, %s FROM memory_spaces
            ON CONFLICT DO NOTHING""",
            [fingerprint(description), json.dumps(description), tenant_key_check()],
        )
        cursor.execute("SELECT space, active FROM memory_spaces WHERE fingerprint = %s", [fingerprint(description)])
        row = cursor.fetchone()
    if row is None:
        raise SpaceMismatch("Another space was registered at the same moment; run it again.")
    return row
