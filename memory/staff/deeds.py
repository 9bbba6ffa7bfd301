"""What staff may do, each as one call with its line in the audit log. The rights are checked by who calls.

An erasure and a quarantine are done as r1_app, bound to that one user, as the service itself would; the log is
written as r1_staff. What cannot be undone has its line before it begins, so that no deed is without one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from memory.audit.log import record
from memory.erasure.erase import Erasure, erase_memory
from memory.rls import bind_tenant
from memory.rollout.flags import set_flag
from memory.sealing.names import user_hash_of
from memory.sealing.quarantine import quarantine_by_hand

STAFF = "staff"


def log_in(actor: str) -> None:
    """Somebody's password was right."""
    record(actor=actor, action="staff.login", alias=STAFF)


def find(user_id: str, *, actor: str) -> str:
    """The hash of a user id, 64 hex digits, whether or not there is such a user. Raises InvalidUserId."""
    user_hash = user_hash_of(user_id)
    record(actor=actor, action="staff.find", subject=user_hash, alias=STAFF)
    return user_hash


def erase(user_hash: str, *, actor: str) -> Erasure:
    """Erase the user's memory for good. Raises what `erase_memory` does; called again, it goes on."""
    record(actor=actor, action="staff.erase", subject=user_hash, detail={"step": "begun"}, alias=STAFF)
    with bind_tenant(user_hash):
        erasure = erase_memory()
    record(
        actor=actor,
        action="staff.erase",
        subject=user_hash,
        detail={"step": "done", "documents": erasure.erased_documents, "chunks": erasure.erased_chunks},
        alias=STAFF,
    )
    return erasure


def change_flag(name: str, value: Any, *, actor: str) -> None:
    """Set a flag, or clear it where `value` is None. Raises ValueError for a value it may not have."""
    set_flag(name, value, actor=actor, alias=STAFF)


def quarantine(chunks: Iterable[tuple[str, UUID]], *, is_quarantined: bool, actor: str) -> int:
    """Quarantine chunks, (user hash, id), or release them; how many were not so before.

    A released chunk that does not open is quarantined again by the next search that finds it.
    """
    of_user: dict[str, list[UUID]] = defaultdict(list)
    for user_hash, chunk_id in chunks:
        of_user[user_hash].append(chunk_id)
    changed = 0
    for user_hash, ids in of_user.items():
        record(
            actor=actor,
            action="staff.quarantine" if is_quarantined else "staff.release",
            subject=user_hash,
            detail={"chunks": [str(chunk_id) for chunk_id in ids]},
            alias=STAFF,
        )
        with bind_tenant(user_hash):
            changed += quarantine_by_hand(user_hash, ids, is_quarantined=is_quarantined)
    return changed
