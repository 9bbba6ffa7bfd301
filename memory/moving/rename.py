"""One user's memory under another name, while he reads and writes: the tenant HMAC key changes.

Everything of his is bound to his name by its seals, so everything is copied and sealed anew. His keys stay what they
are and are wrapped anew: what hangs on them without his name in it (vectors, words, the MACs of answered requests)
stays as it is, and so do answers and their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from django.db.backends.base.base import BaseDatabaseWrapper

from memory.admission.pace import Pace
from memory.embedding.spaces import space_of
from memory.errors import Overloaded
from memory.moving.batches import batches
from memory.moving.copies import Copier, Place
from memory.moving.documents import read_documents
from memory.moving.move import Move, MoveLost, MoveState, begin_move, current_move, while_moving
from memory.moving.moved import LAST_DOCUMENTS, ROUNDS_MAX, Moved
from memory.moving.removal import give_up, remove_left_behind
from memory.moving.rename_switch import Switch
from memory.moving.renamed_keys import make_tenant
from memory.moving.renamed_requests import copy_answers
from memory.moving.renamed_rows import remove_old_name
from memory.moving.target import remove_copies, replace_copies
from memory.moving.versions import pending_pages
from memory.rls import TenantTransaction, tenant_transaction
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile


def rename_user(
    maint: BaseDatabaseWrapper, old: str, new: str, user_id: str, moved: Moved, *, pace: Pace,
    tell: Callable[[], object],
) -> None:  # fmt: skip
    """Give the user `user_id`, whose name is `old`, the name `new`, and count in `moved`.

    1. Finish, or give up, his move into another space. Note this one; make his row under the new name, which nobody is
       served from, with his keys wrapped for it.
    2. Round by round, copy documents and answered requests that are not copied as they stand now.
    3. Switch, in one transaction of `maint` (r1_maint, who alone sees both names): lock the old row, see that
       everything is copied (copying the last few), and make the new row his. The old one is a link from then on.
    4. Remove what is left under the old name; the link stays until the old key is retired.

    Killed anywhere, the next call goes on. Raises as `reindex_user`, and MoveLost where there is a user of that name.
    """

    def removed(rows: int) -> None:
        moved.removed_rows += rows
        tell()

    left = current_move(old)
    if left is not None and not left.renames:
        (remove_left_behind if left.state is MoveState.REMOVING else give_up)(left, removed)
        left = None
    if left is None or left.state is MoveState.COPYING:
        move = under_profile(old, lambda profile: _begun(profile, new))
        if move is None:
            raise MoveLost()
        _Renaming(maint, move, user_id, moved, pace, tell).copy_and_switch()
        left = Move(move.user_hash, move.from_space, move.target_hash, move.space, MoveState.REMOVING)
    remove_old_name(left, removed)
    moved.finished = True


def _begun(profile: TenantProfile, new: str) -> Move:
    with tenant_transaction(profile.user_hash, write=True) as tx:
        profile.verify(tx)
        return begin_move(tx, Move(tx.user_hash, profile.space, new, profile.space))


class _Renaming:
    def __init__(
        self, maint: BaseDatabaseWrapper, move: Move, user_id: str, moved: Moved, pace: Pace,
        tell: Callable[[], object],
    ):  # fmt: skip
        space = space_of(move.space)
        self._maint = maint
        self._move = move
        self._user_id = user_id
        self._generations: tuple[int, ...] = ()
        self._copier = Copier(space, space, None, same_search_key=True)
        self._moved = moved
        self._pace = pace
        self._tell = tell

    def copy_and_switch(self) -> None:
        """Steps 2 and 3."""
        for _ in range(ROUNDS_MAX):
            self._moved.rounds += 1
            self._round()
            if while_moving(self._move, self._switched):
                self._tell()
                return
        raise Overloaded("The user writes faster than can be copied; run it again.")

    def _round(self) -> None:
        while_moving(self._move, self._make_keys)
        while_moving(self._move, lambda profile: copy_answers(self._move, profile))
        for page in pending_pages(self._move):
            if page.to_remove:
                self._take_away(page.to_remove)
            for batch in batches(page.to_copy):
                chunks = while_moving(self._move, partial(self._copy, doc_ids=batch))
                self._tell()
                self._pace.spend(chunks)

    def _make_keys(self, profile: TenantProfile) -> None:
        """Step 1, and again where a data key has been added or retired since."""
        if profile.generations != self._generations:
            make_tenant(self._maint, self._move, profile, self._user_id)
            self._generations = profile.generations

    def _copy(self, profile: TenantProfile, doc_ids: Sequence[str]) -> int:
        documents = read_documents(profile, doc_ids, vectors=True)
        name = self._move.target_hash
        copies = self._copier.copies(Place(name, profile.newest.under(name), profile.search_key.under(name)), documents)
        with tenant_transaction(name, write=True) as tx:
            require_copying(tx)
            replace_copies(tx, self._move, copies)
        chunks = sum(len(copy.chunks) for copy in copies)
        self._moved.documents += len(copies)
        self._moved.chunks += chunks
        return chunks

    def _take_away(self, doc_ids: Sequence[str]) -> None:
        with tenant_transaction(self._move.target_hash, write=True) as tx:
            require_copying(tx)
            remove_copies(tx, self._move, doc_ids)

    def _switched(self, profile: TenantProfile) -> bool:
        """Step 3; False where too much has changed since it was copied, and nothing is switched."""
        with Switch(self._maint, self._move, profile) as switch:
            pending = switch.pending(limit=LAST_DOCUMENTS + 1)
            if len(pending) > LAST_DOCUMENTS:
                return False
            # The old row is locked by r1_maint: nobody writes there. Copies are written as ever, as the user.
            if gone := [doc_id for doc_id, is_gone in pending if is_gone]:
                self._take_away(gone)
            if changed := [doc_id for doc_id, is_gone in pending if not is_gone]:
                self._copy(profile, changed)
            copy_answers(self._move, profile)
            if pending and switch.pending(limit=1):
                return False
            return switch.make()


def require_copying(tx: TenantTransaction) -> None:
    """Raises MoveLost unless the user of `tx` is a name that copies are made for."""
    state = tx.state(even_inactive=True)
    if state is None or state.state != "moving":
        raise MoveLost()
