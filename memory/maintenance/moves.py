"""Whom a mover still has to move, and how far it is with all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.admission.pace import Pace
from memory.embedding.spaces import embedder_of, space_of
from memory.errors import DecryptionFailed, MemoryServiceError
from memory.moving.copies import Copier
from memory.moving.move import MoveLost
from memory.moving.moved import Moved
from memory.moving.reindex import reindex_user

# One number for everything that moves users, so that no two of them move the same one.
ADVISORY_LOCK = 0x5231504D

_USERS = """
SELECT t.user_hash, t.chunk_count, t.active_space FROM memory_tenants t
WHERE t.state = 'active' AND (%(user_hash)s::text IS NULL OR t.user_hash = %(user_hash)s)
  AND (t.active_space <> %(space)s OR EXISTS (
      SELECT FROM memory_moves m WHERE m.user_hash = t.user_hash AND m.target_hash = t.user_hash))
ORDER BY t.user_hash"""


@dataclass
class Reindexed:
    """What a run did; with `dry_run`, what it would do.

    `users` and `chunks_before`: whom it found to move, and what they had then. `documents` and `chunks`: copied.
    `damaged`: users with rows that do not open, who stay where they are; `failed`: others for the next run.
    """

    dry_run: bool
    space: int = 0
    users: int = 0
    chunks_before: int = 0
    moved: int = 0
    damaged: int = 0
    failed: int = 0
    done: Moved = field(default_factory=Moved)

    def summary(self) -> dict[str, Any]:
        """As the command prints it."""
        own = {name: value for name, value in vars(self).items() if name != "done"}
        return {
            **own, "documents": self.done.documents, "chunks": self.done.chunks, "removed_rows": self.done.removed_rows,
        }  # fmt: skip


def reindex_users(
    connection: BaseDatabaseWrapper, done: Reindexed, *, user_hash: str | None, pace: Pace,
    progress: Callable[[str, int, int], object],
) -> None:  # fmt: skip
    """Move everybody who is not in `done.space`, or `user_hash` alone; who is in the middle of it is finished.

    `connection` is r1_maint's, lists users, and holds ADVISORY_LOCK; each is moved as himself. Raises SpaceMismatch,
    ModelUnavailable before anybody is moved, and database errors.
    """
    with connection.cursor() as cursor:
        cursor.execute(_USERS, {"user_hash": user_hash, "space": done.space})
        users = cursor.fetchall()
    done.users, done.chunks_before = len(users), sum(chunks for _, chunks, _ in users)
    target = space_of(done.space)
    if any(Copier.needs_model(space_of(space), target) for space in {space for *_, space in users}):
        embedder_of(done.space)
    if done.dry_run:
        return

    def tell() -> None:
        # Who writes meanwhile is copied more than once.
        progress("chunks", done.done.chunks, max(done.chunks_before, done.done.chunks))

    progress("chunks", 0, done.chunks_before)
    for name, _, _ in users:
        try:
            reindex_user(name, done.space, done.done, pace=pace, tell=tell)
        except MoveLost:
            # Erased meanwhile.
            continue
        except DecryptionFailed:
            done.damaged += 1
        except (MemoryServiceError, DatabaseError):
            done.failed += 1
        else:
            done.moved += 1
