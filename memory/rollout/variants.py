"""Which pipeline answers a user: the stable one, or the newer one for a share of all users.

A user keeps his place from 0 to 100 for ever, so a change of MEMORY_CANARY_PCT moves only those whose place lies
between the two shares, and a rollback moves back exactly these. Nothing that is stored depends on the variant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from memory.rollout.flags import flag

PLACES = 10_000


@dataclass(frozen=True)
class Pipeline:
    """What of the query's walk a variant has. Vectors and decay are in each."""

    has_words: bool
    has_context: bool
    has_rerank: bool


STABLE, NEWER = "r0.5", "r1"
PIPELINES = {
    STABLE: Pipeline(has_words=False, has_context=False, has_rerank=False),
    NEWER: Pipeline(has_words=True, has_context=True, has_rerank=True),
}
# Of a request without a user.
NO_VARIANT = "none"

# A request's: decided when it is first asked for, and then kept.
_decided: ContextVar[list[str] | None] = ContextVar("memory_variant", default=None)


def variant_of(user_hash: str) -> str:
    """The name of the pipeline of the user of that hash, by the last known MEMORY_CANARY_PCT; asks no database."""
    # Of a hash of the hash: partitions and shares of other kinds, cut by its first digits, say nothing about it.
    place = int.from_bytes(hashlib.sha256(b"variant:" + user_hash.encode()).digest()[:8]) % PLACES
    return NEWER if place < flag("MEMORY_CANARY_PCT", refresh=False) * (PLACES // 100) else STABLE


def variant_in_use(user_hash: str) -> str:
    """`variant_of`, and within a `one_variant` block the same one to its end."""
    decided = _decided.get()
    if decided is None:
        return variant_of(user_hash)
    if not decided:
        decided.append(variant_of(user_hash))
    return decided[0]


@contextmanager
def one_variant() -> Iterator[None]:
    """A block of one user's in which the pipeline that has been asked for once stays, whatever the flag says."""
    token = _decided.set([])
    try:
        yield
    finally:
        _decided.reset(token)
