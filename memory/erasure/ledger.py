"""The ledger of erasures: read, kept apart from the database's own backups, and replayed after a restore.

A restored database is as old as its backup, its ledger too. So the ledger is written out regularly
(`manage.py erasures`), and after a restore everybody in it who is back is erased again.

What the commands list is read by the ORM; what runs in a tenant's transaction is SQL (deploy/decisions/0012).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from uuid import UUID

from django.db import DatabaseError
from django.db.models.functions import Now

from memory.erasure.erase import ANY_ROWS, erase_memory
from memory.errors import MemoryServiceError
from memory.models import Erasure, Tenant
from memory.rls import USER_HASH_PATTERN, bind_tenant, tenant_transaction

_RECORD = """
INSERT INTO memory_erasures (user_hash, id, erased_at, unrecoverable_after, erased_documents, erased_chunks)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (user_hash, id) DO NOTHING"""
_BORN = "SELECT created_at FROM memory_tenants WHERE user_hash = %s"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class LedgerEntry:
    """One erasure. Times are aware."""

    user_hash: str
    id: UUID
    erased_at: datetime
    unrecoverable_after: datetime
    erased_documents: int
    erased_chunks: int

    def line(self) -> str:
        """The entry as one line of JSON."""
        times = {name: getattr(self, name).astimezone(UTC).isoformat() for name in ("erased_at", "unrecoverable_after")}
        return json.dumps({**self.__dict__, "id": str(self.id), **times}, separators=(",", ":"))


def parse_entry(line: str) -> LedgerEntry:
    """The inverse of `LedgerEntry.line`. Raises ValueError."""
    try:
        found = json.loads(line)
        entry = LedgerEntry(
            user_hash=found["user_hash"],
            id=UUID(found["id"]),
            erased_at=datetime.fromisoformat(found["erased_at"]),
            unrecoverable_after=datetime.fromisoformat(found["unrecoverable_after"]),
            erased_documents=found["erased_documents"],
            erased_chunks=found["erased_chunks"],
        )
        if None in (entry.erased_at.tzinfo, entry.unrecoverable_after.tzinfo):
            raise ValueError
        if not USER_HASH_PATTERN.fullmatch(entry.user_hash):
            raise ValueError
        if any(type(count) is not int or count < 0 for count in (entry.erased_documents, entry.erased_chunks)):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError("not a line of the ledger") from None
    return entry


def read_ledger(since: datetime | None = None, *, using: str = "backup") -> Iterator[LedgerEntry]:
    """Every entry since a moment, oldest first, as a role that sees every user's."""
    columns = [field.name for field in fields(LedgerEntry)]
    entries = Erasure.objects.using(using).filter(erased_at__gte=since or _BEGINNING).order_by("erased_at", "id")
    for row in entries.values_list(*columns).iterator():
        yield LedgerEntry(*row)


@dataclass
class Replay:
    """What a replay did, in users; with `dry_run`, what it would do. `failed` are left for the next run."""

    dry_run: bool
    entries: int = 0
    returned: int = 0
    unfinished: int = 0
    erased: int = 0
    erased_documents: int = 0
    erased_chunks: int = 0
    failed: int = 0


def replay(
    entries: Collection[LedgerEntry], done: Replay, *, progress: Callable[[str, int, int], object], using: str = "maint"
) -> None:
    """Erase again everybody in the ledger who is back with rows older than their erasure; `done` counts on the way.

    1. Write the entries into the database's own ledger, where they are missing after a restore.
    2. Find who is back: a user with a tenant older than the last erasure, or with rows and no tenant. One who
       began anew after it is younger, and left alone.
    3. Erase each, as the service does, bound to that user: keys first, then rows.
    4. Finish erasures that were begun and left off, whether in the ledger or not.

    Stopped anywhere, the next run goes on: who has been erased is not back any more. `using` lists tenants.
    `progress` gets what is gone through, how many of it are done, and how many there are.
    """
    last: dict[str, LedgerEntry] = {}
    progress("ledger's entries", 0, len(entries))
    for entry in entries:
        if entry.user_hash not in last or last[entry.user_hash].erased_at < entry.erased_at:
            last[entry.user_hash] = entry
        if not done.dry_run:
            with tenant_transaction(entry.user_hash, write=True, reads_state=False) as tx:
                tx.execute(_RECORD, list(astuple(entry)))
        done.entries += 1
        progress("ledger's entries", done.entries, len(entries))
    progress("users of the ledger", 0, len(last))
    for number, entry in enumerate(last.values(), 1):
        if _is_back(entry):
            done.returned += 1
            _erase(entry.user_hash, entry.erased_at, done)
        progress("users of the ledger", number, len(last))
    unfinished = Tenant.objects.using(using).filter(state="erasing").order_by("user_hash")
    begun = list(unfinished.values_list("user_hash", Now()))
    progress("unfinished erasures", 0, len(begun))
    for number, (user_hash, now) in enumerate(begun, 1):
        if user_hash not in last or not _is_back(last[user_hash]):
            done.unfinished += 1
            _erase(user_hash, now, done)
        progress("unfinished erasures", number, len(begun))


def _is_back(entry: LedgerEntry) -> bool:
    with tenant_transaction(entry.user_hash, reads_state=False) as tx:
        born = tx.execute(_BORN, [entry.user_hash])
        has_rows = tx.execute(f"SELECT {ANY_ROWS}", {"user_hash": entry.user_hash})
        row = born.fetchone()
        return has_rows.fetchone()[0] if row is None else row[0] < entry.erased_at


def _erase(user_hash: str, older_than: datetime, done: Replay) -> None:
    if done.dry_run:
        return
    try:
        with bind_tenant(user_hash):
            erasure = erase_memory(older_than=older_than)
    except (MemoryServiceError, DatabaseError):
        done.failed += 1
        return
    done.erased += 1
    done.erased_documents += erasure.erased_documents
    done.erased_chunks += erasure.erased_chunks
