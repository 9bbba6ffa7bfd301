"""Embedding spaces: a small integer for one model, one way of chunking and one protection scheme.

Vectors of two spaces must never be compared, so a chunk's key holds its space. Each user has one active space; a new
user begins in the default one. Settings say what a new space is; a user is served as his own space says. So a process
serves every space of the models that it holds. Several editions of one space differ in nothing but their users' search
keys: they are how a user gets a new one.
"""

from __future__ import annotations

import hashlib
import json

from django.conf import settings
from django.db import connections, transaction

from memory.admission.deadline import deadline_at
from memory.embedding.embedder import Embedder
from memory.embedding.process import configured_embedders
from memory.embedding.space import SCHEME_VERSION, Chunking, Space
from memory.errors import ModelUnavailable, SpaceMismatch
from memory.keys.master_keys import tenant_hmac_keys, tenant_key_check
from memory.limits import CHUNK_MAX_CHARS

_SPACES = "SELECT space, fingerprint, description, is_default, tenant_key_check FROM memory_spaces"
_REGISTER = """
INSERT INTO memory_spaces (space, fingerprint, edition, description, is_default, tenant_key_check)
SELECT coalesce(max(space), 0) + 1, %(fingerprint)s,
       coalesce(max(edition) FILTER (WHERE fingerprint = %(fingerprint)s), 0) + 1,
       %(description)s::jsonb, count(*) = 0, %(check)s
FROM memory_spaces HAVING %(another)s OR NOT coalesce(bool_or(fingerprint = %(fingerprint)s), false)
ON CONFLICT DO NOTHING RETURNING space"""
_FIND = """
SELECT space, is_default FROM memory_spaces WHERE fingerprint = %s ORDER BY is_default DESC, edition DESC LIMIT 1"""
_registered: dict[int, Space] | None = None


def describe(embedder: Embedder) -> dict:
    """What the present settings and a loaded model amount to."""
    return {
        "scheme": SCHEME_VERSION,
        "model": embedder.model_name,
        "weights_sha256": embedder.weights_sha256,
        "dimension": embedder.dimension,
        "chunk_tokens": chunk_tokens(embedder),
        "chunk_overlap": overlap_tokens(embedder),
        "chunk_max_chars": CHUNK_MAX_CHARS,
        "protection": settings.MEMORY_EMBEDDING_PROTECTION,
    }


def chunk_tokens(embedder: Embedder) -> int:
    """How many tokens a chunk has, special ones included: as set, or what the model reads where that is less."""
    return min(settings.MEMORY_CHUNK_TOKENS, embedder.max_tokens)


def overlap_tokens(embedder: Embedder) -> int:
    """How many tokens of a chunk the next one repeats: as set, or a quarter where that is over half of a chunk."""
    overlap, tokens = settings.MEMORY_CHUNK_OVERLAP, chunk_tokens(embedder)
    return overlap if overlap * 2 <= tokens else tokens // 4


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
    return space_of(space).dimension


def chunking_of(space: int) -> Chunking:
    """How texts of this space are cut. Raises SpaceMismatch as `default_space`."""
    return space_of(space).chunking


def is_rotated(space: int) -> bool:
    """Whether this space's vectors are rotated by their user's secret. Raises SpaceMismatch as `default_space`."""
    return bool(space_of(space).description["protection"] != "none")


def embedder_of(space: int) -> Embedder:
    """This process's embedder for a space, loaded. Raises SpaceMismatch where no model of the process is of it.

    Also raises ModelUnavailable, and as `default_space`.
    """
    wanted = space_of(space)
    unavailable: ModelUnavailable | None = None
    for embedder in configured_embedders():
        try:
            embedder.load(deadline_at())
        except ModelUnavailable as exc:
            # Users of the other model are served all the same.
            unavailable = exc
            continue
        if wanted.is_served_by(embedder):
            return embedder
    raise unavailable or SpaceMismatch()


def require_registered(embedder: Embedder) -> None:
    """Raises SpaceMismatch where settings and a loaded model describe no registered space: one that nobody meant."""
    wanted = fingerprint(describe(embedder))
    if wanted not in {space.fingerprint for space in _spaces().values()}:
        forget_spaces()
        if wanted not in {space.fingerprint for space in _spaces().values()}:
            raise SpaceMismatch("The settings describe an embedding space that is not registered.")


def forget_spaces() -> None:
    """Look the spaces up again at the next call."""
    global _registered
    _registered = None


def register_space(embedder: Embedder, *, another: bool = False) -> tuple[int, bool]:
    """Register what settings and a loaded model amount to, as the default if it is the first: (number, is default).

    With `another` a new edition of it, whatever there is. Runs as the owner, who alone may write this table.
    """
    description = describe(embedder)
    digest = fingerprint(description)
    params: dict[str, str | bytes | bool] = {
        "fingerprint": digest, "description": json.dumps(description), "check": tenant_key_check(), "another": another,
    }  # fmt: skip
    with connections["owner"].cursor() as cursor:
        cursor.execute(_REGISTER, params)
        made = cursor.fetchone()
        if made is None and another:
            raise SpaceMismatch("Another space was registered at the same moment; run it again.")
        cursor.execute(_FIND, [digest])
        row = cursor.fetchone()
        if row is None:
            raise SpaceMismatch("Another space was registered at the same moment; run it again.")
        if made is not None and made[0] != row[0]:
            row = (made[0], False)
    forget_spaces()
    return row


def newest_of(embedder: Embedder) -> int:
    """The newest registered space of what settings and a loaded model amount to. Raises SpaceMismatch."""
    forget_spaces()
    wanted = fingerprint(describe(embedder))
    numbers = [space.number for space in _spaces().values() if space.fingerprint == wanted]
    if not numbers:
        raise SpaceMismatch("The settings describe no registered embedding space; run `manage.py register_space`.")
    return _checked(_spaces()[max(numbers)]).number


def make_default(space: int) -> None:
    """Let new users begin in a registered space, from this transaction's commit on. Runs as the owner."""
    with transaction.atomic(using="owner"), connections["owner"].cursor() as cursor:
        cursor.execute("UPDATE memory_spaces SET is_default = false WHERE is_default AND space <> %s", [space])
        cursor.execute("UPDATE memory_spaces SET is_default = true WHERE space = %s", [space])
    forget_spaces()


def space_of(number: int) -> Space:
    """The registered space of this number, looked up once more where it is not known: it may be new.

    Raises SpaceMismatch as `default_space`.
    """
    space = _spaces().get(number)
    if space is None:
        forget_spaces()
        space = _spaces().get(number)
    if space is None:
        raise SpaceMismatch("The user's embedding space is not registered.")
    return _checked(space)


def naming_key() -> bytes:
    """The tenant HMAC key that new users are named by, of those that this process has. Raises SpaceMismatch.

    As the database said when it was last looked at: whoever makes a user has it said again by the statement that does.
    """
    check = space_of(default_space()).tenant_key_check
    return next(key for key in tenant_hmac_keys() if tenant_key_check(key) == check)


def _checked(space: Space) -> Space:
    if space.tenant_key_check not in map(tenant_key_check, tenant_hmac_keys()):
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
            number: Space(number, digest, _parsed(description), is_default, bytes(key_check))
            for number, digest, description, is_default, key_check in rows
        }
    return found


def _parsed(description: str | dict) -> dict:
    """Django's connections give JSON as text."""
    parsed: dict = json.loads(description) if isinstance(description, str) else description
    return parsed
