"""Embedding spaces: a small integer for one model, one way of chunking and one protection scheme.

Vectors of two spaces must never be compared, so a chunk's key holds its space. Each user has one active space; a new
user begins in the default one. A process serves the spaces of the models that it holds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from django.conf import settings
from django.db import connections

from memory.admission.deadline import deadline_at
from memory.embedding.embedder import Embedder
from memory.embedding.process import configured_embedders
from memory.errors import ModelUnavailable, SpaceMismatch
from memory.keys.master_keys import tenant_key_check
from memory.limits import CHUNK_MAX_CHARS

# Raised when chunking, rotation or sealing of vectors changes so that old and new must not mix.
SCHEME_VERSION = 1

_SPACES = (
    "SELECT space, fingerprint, (description->>'dimension')::integer, is_default, tenant_key_check FROM memory_spaces"
)
_registered: dict[int, Space] | None = None


@dataclass(frozen=True)
class Space:
    """A registered space, as its row has it."""

    number: int
    fingerprint: str
    dimension: int
    is_default: bool
    tenant_key_check: bytes


def describe(embedder: Embedder) -> dict:
    """What the present settings and a loaded model amount to."""
    return {
        "scheme": SCHEME_VERSION,
        "model": embedder.model_name,
        "weights_sha256": embedder.weights_sha256,
        "dimension": embedder.dimension,
        "chunk_tokens": embedder.max_tokens,
        "chunk_overlap": overlap_tokens(embedder),
        "chunk_max_chars": CHUNK_MAX_CHARS,
        "protection": settings.MEMORY_EMBEDDING_PROTECTION,
    }


def overlap_tokens(embedder: Embedder) -> int:
    """How many tokens of a chunk the next one repeats: as set, or a quarter where that is over half of a chunk."""
    overlap: int = settings.MEMORY_CHUNK_OVERLAP
    return overlap if overlap * 2 <= embedder.max_tokens else embedder.max_tokens // 4


def fingerprint(description: dict) -> str:
    """SHA-256 over the description, without the model's name: the same weights from another folder are the same."""
    same = {key: value for key, value in description.items() if key != "model"}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()


def default_space() -> int:
    """The space that a new user begins in.

    Raises SpaceMismatch where there is none, or MEMORY_TENANT_HMAC_KEY is not the key that this database's users are
    named by.
    """
    for _ in range(2):
        for space in _spaces().values():
            if space.is_default:
                return _checked(space).number
        # It may have been registered since.
        forget_spaces()
    raise SpaceMismatch("No embedding space is registered; run `manage.py register_space`.")


def dimension_of(space: int) -> int:
    """How many dimensions a vector of this space has. Raises SpaceMismatch as `default_space`."""
    return _space(space).dimension


def embedder_of(space: int) -> Embedder:
    """This process's embedder for a space, loaded. Raises SpaceMismatch where settings and models are of no such space.

    Also raises ModelUnavailable, and as `default_space`.
    """
    wanted = _space(space).fingerprint
    unavailable: ModelUnavailable | None = None
    for embedder in configured_embedders():
        try:
            embedder.load(deadline_at())
        except ModelUnavailable as exc:
            # Users of the other model are served all the same.
            unavailable = exc
            continue
        if fingerprint(describe(embedder)) == wanted:
            return embedder
    raise unavailable or SpaceMismatch()


def forget_spaces() -> None:
    """Look the spaces up again at the next call."""
    global _registered
    _registered = None


def register_space(embedder: Embedder) -> tuple[int, bool]:
    """Register what settings and a loaded model amount to, as the default if it is the first: (number, is default).

    Runs as the owner, who alone may write this table.
    """
    description = describe(embedder)
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO memory_spaces (space, fingerprint, description, is_default, tenant_key_check)
            SELECT coalesce(max(space), 0) + 1, %s, %s::jsonb, count(*) = 0, %s FROM memory_spaces
            ON CONFLICT DO NOTHING""",
            [fingerprint(description), json.dumps(description), tenant_key_check()],
        )
        cursor.execute("SELECT space, is_default FROM memory_spaces WHERE fingerprint = %s", [fingerprint(description)])
        row = cursor.fetchone()
    if row is None:
        raise SpaceMismatch("Another space was registered at the same moment; run it again.")
    return row


def _space(number: int) -> Space:
    """The registered space of this number, looked up once more where it is not known: it may be new."""
    space = _spaces().get(number)
    if space is None:
        forget_spaces()
        space = _spaces().get(number)
    if space is None:
        raise SpaceMismatch("The user's embedding space is not registered.")
    return _checked(space)


def _checked(space: Space) -> Space:
    if space.tenant_key_check != tenant_key_check():
        raise SpaceMismatch("MEMORY_TENANT_HMAC_KEY is not the key that this database's users are named by.")
    return space


def _spaces() -> dict[int, Space]:
    """Every registered space, read once a process."""
    global _registered
    found = _registered
    if found is None:
        connection = connections["default"]
        with connection.cursor() as cursor:
            cursor.execute(_SPACES)
            rows = cursor.fetchall()
        if not connection.in_atomic_block:
            connection.close()
        _registered = found = {
            number: Space(number, digest, dimension, is_default, bytes(key_check))
            for number, digest, dimension, is_default, key_check in rows
        }
    return found
