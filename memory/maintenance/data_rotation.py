"""What a rotation of data keys did, in numbers, and what it left."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from memory.indexing.reseal import Resealed


class NoSuchUser(Exception):
    """The user who was named has no memory here."""


@dataclass
class DataRotation(Resealed):
    """What a run did. `keys`: generations added; `retired`: old ones that are gone; `waiting`: those still needed.

    `needed_by`: by how many rows and answers, by their kind. `skipped`: users who were left alone, each once: a key or
    the user id does not open (`damaged`), a key cannot be had or he is being moved or erased (`unavailable`), somebody
    else held his rows (`busy`). `started_at`: when the run over all users began. `users_left`: who has no new key yet.
    `files_cleared`: whether what the retired keys left in their tables' files is gone, for which large tables are not
    rewritten while requests go on; None where none retired.
    """

    keys: int = 0
    retired: int = 0
    waiting: int = 0
    needed_by: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    damaged: int = 0
    unavailable: int = 0
    busy: int = 0
    started_at: str | None = None
    users_left: int = 0
    files_cleared: bool | None = None
    dry_run: bool = False
    # Whether the same command, run again, goes on where this one was and gives nobody a second key.
    goes_on: bool = field(default=False, metadata={"is_told": False})
    users_skipped: set[str] = field(default_factory=set, repr=False, metadata={"is_told": False})

    @property
    def is_done(self) -> bool:
        """Whether nobody was left alone, and no user has more than one data key any more."""
        return self.dry_run or not (self.waiting or self.skipped or self.users_left)

    def summary(self) -> dict[str, Any]:
        """All that may be told: nobody's name."""
        return {told.name: getattr(self, told.name) for told in fields(self) if told.metadata.get("is_told", True)}

    def skip(self, user_hash: str, why: str) -> None:
        """Count a user who was left alone, once. `why`: damaged, unavailable or busy."""
        if user_hash not in self.users_skipped:
            self.users_skipped.add(user_hash)
            self.skipped += 1
            setattr(self, why, getattr(self, why) + 1)
