"""Everything a user has stored, as it was sent, a document at a time and in constant memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from memory import metrics
from memory.errors import KeyUnavailable, MemoryServiceError
from memory.indexing.derived import IS_DERIVED
from memory.indexing.expired import unexpired
from memory.retrieval.open import Opening
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile
from memory.sealing.quarantine import ANY_QUARANTINED
from memory.services.documents import (
    CHUNK_COLUMNS,
    DOCUMENT_COLUMNS,
    StoredDocument,
    open_document,
)

logger = logging.getLogger(__name__)

# A page is held in memory at once: so many documents, and no more chunks than one call may store, unless a
# document has more by itself.
PAGE_DOCUMENTS = 50
PAGE_CHUNKS = 200

_RENAMED = "SELECT moved_to FROM memory_tenants WHERE user_hash = %s AND state = 'moved'"
_BORN = "SELECT created_at FROM memory_tenants WHERE user_hash = %s"
# By doc_id, which never changes: a document that is there throughout comes exactly once, whatever is written
# meanwhile. First those that were sent as they are, then those made from others.
_DOCUMENTS = f"""
SELECT chunk_count, {DOCUMENT_COLUMNS}
FROM memory_documents d
WHERE user_hash = %(user_hash)s AND doc_id > %(after)s AND {unexpired()} AND {IS_DERIVED} = %(derived)s
    AND (%(whole)s OR NOT EXISTS (
        SELECT FROM memory_chunks c
        WHERE c.user_hash = %(user_hash)s AND c.space = %(space)s AND c.doc_id = d.doc_id
            AND c.quarantined_at IS NOT NULL))
ORDER BY doc_id LIMIT %(limit)s"""
_CHUNKS = f"""
SELECT doc_id, {CHUNK_COLUMNS}
FROM memory_chunks WHERE user_hash = %s AND space = %s AND doc_id = ANY(%s) ORDER BY doc_id, chunk_index"""


@dataclass(frozen=True)
class Export:
    """A memory on its way out. `degraded` has `quarantined` where documents are left out because they are."""

    documents: Iterator[StoredDocument]
    degraded: list[str]


@dataclass
class _Memory:
    """What is exported. `is_whole`: nothing of it is quarantined; a document that does not open ends the export."""

    user_hash: str
    born: datetime
    is_whole: bool


def export_documents() -> Export:
    """The bound tenant's documents; those made from others last, since indexing what they were made from
    removes them.

    The first page is read now, so that what is wrong with the whole memory (no key, no database) is raised
    here; the others as they are asked for, when nobody may be bound any more. A page is one short
    transaction; none is open while a document is out, however slowly the reader takes it.

    Documents with quarantined rows are left out, and the export says so. An export that does not say so has every
    document, or ends before its last chunk.

    Raises KeyUnavailable (also when the user is erased meanwhile: the rest of a memory is not the memory),
    DecryptionFailed (the rows are quarantined then) and database errors, here or from the iterator.
    """
    memory = _memory(bound_tenant())
    if memory is None:
        return Export(iter(()), [])
    first = _page(memory, after="", derived=False)
    return Export(_documents(memory, first), [] if memory.is_whole else ["quarantined"])


def _documents(memory: _Memory, first: list[StoredDocument]) -> Iterator[StoredDocument]:
    try:
        yield from _walk(memory, first, derived=False)
        yield from _walk(memory, _page(memory, after="", derived=True), derived=True)
    except Exception as exc:
        # The answer has begun: what is left is to break it off, so that nobody takes it for whole. Whoever
        # logs what goes up from here prints it in full, so only our own fixed sentences do.
        metrics.errors.labels("export", "server").inc()
        logger.error("an export was broken off: %s", type(exc).__qualname__)
        if isinstance(exc, MemoryServiceError):
            raise
        raise MemoryServiceError() from None


def _walk(memory: _Memory, page: list[StoredDocument], *, derived: bool) -> Iterator[StoredDocument]:
    while page:
        last = page[-1].doc_id
        # Given away one by one: what has been taken is not kept until the page ends.
        page.reverse()
        while page:
            yield page.pop()
        page = _page(memory, after=last, derived=derived)


def _memory(user_hash: str) -> _Memory | None:
    """The user's memory now; when it began tells it from one begun anew after an erasure. None: there is none."""
    with tenant_transaction(user_hash) as tx:
        born = tx.execute(_BORN, [user_hash])
        quarantined = tx.execute(ANY_QUARANTINED, [user_hash])
        tx.end()
        tx.state()
        row = born.fetchone()
        return row and _Memory(user_hash, row[0], is_whole=not quarantined.fetchone()[0])


def _page(memory: _Memory, *, after: str, derived: bool) -> list[StoredDocument]:
    """The documents that follow `after`, opened; [] at the end. Rows of one snapshot, and of that memory."""

    def read(profile: TenantProfile) -> list[StoredDocument]:
        with tenant_transaction(user_hash) as tx:
            born = tx.execute(_BORN, [user_hash])
            found = tx.execute(
                _DOCUMENTS,
                {"user_hash": user_hash, "space": profile.space, "after": after, "derived": derived,
                 "whole": memory.is_whole, "limit": PAGE_DOCUMENTS},
            )  # fmt: skip
            profile.verify(tx)
            row, rows = born.fetchone(), _prefix(found.fetchall())
            if row[0] != memory.born:
                raise KeyUnavailable()
            doc_ids = [row[0] for row in rows]
            chunks = tx.execute(_CHUNKS, [user_hash, profile.space, doc_ids]).fetchall() if rows else []
        chunks_of = {doc_id: [row[1:] for row in group] for doc_id, group in groupby(chunks, key=lambda row: row[0])}
        with Opening(profile) as opening:
            return [open_document(opening, row, chunks_of.get(row[0], [])) for row in rows]

    user_hash = memory.user_hash
    try:
        page = under_profile(user_hash, read)
    except KeyUnavailable:
        memory.user_hash = _new_name(user_hash)
        return _page(memory, after=after, derived=derived)
    if page is None:
        raise KeyUnavailable()
    return page


def _new_name(user_hash: str) -> str:
    """The name of a user who was renamed while his export goes on. Raises KeyUnavailable where he was not."""
    with tenant_transaction(user_hash, reads_state=False) as tx:
        row = tx.execute(_RENAMED, [user_hash]).fetchone()
    if row is None:
        raise KeyUnavailable()
    name: str = row[0]
    return name


def _prefix(rows: list[tuple]) -> list[tuple]:
    """The first rows with at most PAGE_CHUNKS chunks together, at least one; without their chunk_count."""
    kept: list[tuple] = []
    chunks = 0
    for chunk_count, *row in rows:
        chunks += chunk_count
        if kept and chunks > PAGE_CHUNKS:
            break
        kept.append(tuple(row))
    return kept
