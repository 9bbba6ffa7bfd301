"""One user's memory into another embedding space, while he reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from memory.admission.pace import Pace
from memory.embedding.spaces import embedder_of, space_of
from memory.errors import Overloaded
from memory.moving.batches import batches
from memory.moving.copies import Copier, Place
from memory.moving.documents import read_documents
from memory.moving.move import (
    Move,
    MoveState,
    begin_move,
    current_move,
    note_switched,
    require_move,
    while_moving,
)
from memory.moving.moved import LAST_DOCUMENTS, ROUNDS_MAX, Moved
from memory.moving.removal import give_up, remove_left_behind
from memory.moving.target import remove_copies, replace_copies
from memory.moving.versions import pending_now, pending_pages
from memory.rls import TenantTransaction, tenant_transaction
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile
from memory.sealing.search_keys import add_search_key, open_search_key, switch_space

_COUNTS = """
UPDATE memory_documents d SET chunk_count = c.chunk_count FROM memory_moved_documents c
WHERE d.user_hash = %(user_hash)s AND c.user_hash = %(user_hash)s AND c.doc_id = d.doc_id
  AND d.chunk_count <> c.chunk_count"""
_COUNT = """
UPDATE memory_tenants SET chunk_count = (
    SELECT coalesce(sum(chunk_count), 0) FROM memory_moved_documents WHERE user_hash = %(user_hash)s)
WHERE user_hash = %(user_hash)s"""


def reindex_user(user_hash: str, space: int, moved: Moved, *, pace: Pace, tell: Callable[[], object]) -> None:
    """Move one user into `space`, and count in `moved`, of which `tell` hears at each step.

    1. Note the move, and make his search key of that space. A move into another space that was begun is given up; one
       that has switched is finished first.
    2. Round by round, copy what is not copied as it stands now, a batch a transaction. Whatever he writes meanwhile
       goes where he is, and is found by the next round.
    3. Switch: one transaction locks his row, sees that every document is copied as it stands (copying the last few),
       and makes the space his.
    4. Remove what he left behind, in batches.

    Killed anywhere, the next call goes on. Does nothing for a user who is there. Raises MoveLost where he was erased
    meanwhile, Overloaded where he writes faster than can be copied, DecryptionFailed and KeyUnavailable for rows that
    do not open (he stays where he is), StaleKeys, SpaceMismatch, ModelUnavailable, database errors.
    """

    def removed(rows: int) -> None:
        moved.removed_rows += rows
        tell()

    left = current_move(user_hash)
    if left is not None and left.renames:
        raise Overloaded("The user is being renamed; run `manage.py rotate_hmac` first.")
    if left is not None and left.state is MoveState.REMOVING:
        remove_left_behind(left, removed)
    elif left is not None and left.space != space:
        give_up(left, removed)
    move = under_profile(user_hash, lambda profile: _begun(profile, space))
    if move is None:
        moved.finished = True
        return
    _Reindexing(move, moved, pace, tell).copy_and_switch()
    remove_left_behind(Move(move.user_hash, move.from_space, move.target_hash, move.space, MoveState.REMOVING), removed)
    moved.finished = True


def _begun(profile: TenantProfile, space: int) -> Move | None:
    with tenant_transaction(profile.user_hash, write=True) as tx:
        profile.verify(tx)
        if profile.space == space:
            return None
        add_search_key(tx, space)
        return begin_move(tx, Move(tx.user_hash, profile.space, tx.user_hash, space))


class _Reindexing:
    def __init__(self, move: Move, moved: Moved, pace: Pace, tell: Callable[[], object]):
        source, target = space_of(move.from_space), space_of(move.space)
        embedder = embedder_of(move.space) if Copier.needs_model(source, target) else None
        self._move = move
        self._copier = Copier(source, target, embedder)
        self._moved = moved
        self._pace = pace
        self._tell = tell
        with tenant_transaction(move.user_hash) as tx:
            self._search_key = open_search_key(tx, move.space)

    def copy_and_switch(self) -> None:
        """Steps 2 and 3."""
        for _ in range(ROUNDS_MAX):
            self._moved.rounds += 1
            self._round()
            if while_moving(self._move, self._switched):
                return
        raise Overloaded("The user writes faster than can be copied; run it again.")

    def _round(self) -> None:
        for page in pending_pages(self._move):
            if page.to_remove:
                while_moving(self._move, partial(self._take_away, doc_ids=page.to_remove))
            for batch in batches(page.to_copy):
                chunks = while_moving(self._move, partial(self._copy, doc_ids=batch))
                self._tell()
                self._pace.spend(chunks)

    def _copy(self, profile: TenantProfile, doc_ids: Sequence[str]) -> int:
        documents = read_documents(profile, doc_ids, vectors=self._copier.needs_vectors)
        copies = self._copier.copies(self._place(profile), documents)
        with self._writing(profile) as tx:
            replace_copies(tx, self._move, copies)
        chunks = sum(len(copy.chunks) for copy in copies)
        self._moved.documents += len(copies)
        self._moved.chunks += chunks
        return chunks

    def _take_away(self, profile: TenantProfile, doc_ids: Sequence[str]) -> None:
        with self._writing(profile) as tx:
            remove_copies(tx, self._move, doc_ids)

    def _place(self, profile: TenantProfile) -> Place:
        return Place(profile.user_hash, profile.newest, self._search_key)

    def _switched(self, profile: TenantProfile) -> bool:
        """Step 3; False where too much has changed since it was copied, and nothing is switched."""
        move = self._move
        with self._writing(profile) as tx:
            pending = pending_now(tx, move, limit=LAST_DOCUMENTS + 1)
            if len(pending) > LAST_DOCUMENTS:
                return False
            if gone := [doc_id for doc_id, is_gone in pending if is_gone]:
                remove_copies(tx, move, gone)
            if changed := [doc_id for doc_id, is_gone in pending if not is_gone]:
                self._copy(profile, changed)
                if pending_now(tx, move, limit=1):
                    return False
            tx.execute(_COUNTS, {"user_hash": move.user_hash})
            tx.execute(_COUNT, {"user_hash": move.user_hash})
            note_switched(tx, move)
            switch_space(tx, move.space)
        self._tell()
        return True

    def _writing(self, profile: TenantProfile):
        return _writing(self._move, profile)


@contextmanager
def _writing(move: Move, profile: TenantProfile) -> Iterator[TenantTransaction]:
    """A writing transaction in which profile and move stand."""
    with tenant_transaction(move.user_hash, write=True) as tx:
        profile.verify(tx)
        require_move(tx, move)
        yield tx
