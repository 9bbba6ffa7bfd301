"""Which documents still have to be copied: the versions that stand where a user is, against those that were copied.

A version is made of the numbers of the transactions that wrote the document's row and its chunks' (`xmin`). So whatever
writes a row, now or in a later release, changes it without having to know of moves; and what was read with a version
is what the version says, for both are of one snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memory.moving.move import Executes, Move
from memory.rls import tenant_transaction

PAGE_DOCUMENTS = 500

# Of a row `d` of memory_documents. A digest because a document may have thousands of chunks.
VERSION = """md5(d.xmin::text || coalesce((
    SELECT string_agg(',' || c.xmin::text, '' ORDER BY c.chunk_index) FROM memory_chunks c
    WHERE c.user_hash = %(user_hash)s AND c.space = %(space)s::smallint AND c.doc_id = d.doc_id), ''))"""

_STORED = f"""
SELECT d.doc_id, d.chunk_count, {VERSION} FROM memory_documents d
WHERE d.user_hash = %(user_hash)s AND d.doc_id > %(after)s ORDER BY d.doc_id LIMIT %(limit)s"""
_COPIED = """
SELECT doc_id, version FROM memory_moved_documents
WHERE user_hash = %(user_hash)s AND doc_id > %(after)s AND (%(last)s::text IS NULL OR doc_id <= %(last)s)"""

# The same for all documents at once, for the transaction that switches: those that are not as they were copied, and
# whether they are gone. The chunks are gone through once.
_PENDING = """
WITH of_chunks AS MATERIALIZED (
    SELECT doc_id, string_agg(',' || xmin::text, '' ORDER BY chunk_index) AS versions FROM memory_chunks
    WHERE user_hash = %(user_hash)s AND space = %(from_space)s::smallint GROUP BY doc_id
), stored AS MATERIALIZED (
    SELECT d.doc_id, md5(d.xmin::text || coalesce(c.versions, '')) AS version
    FROM memory_documents d LEFT JOIN of_chunks c ON c.doc_id = d.doc_id WHERE d.user_hash = %(user_hash)s
), copied AS MATERIALIZED (
    SELECT doc_id, version FROM memory_moved_documents WHERE user_hash = %(target_hash)s
)
SELECT coalesce(s.doc_id, c.doc_id), s.doc_id IS NULL
FROM stored s FULL JOIN copied c ON c.doc_id = s.doc_id WHERE s.version IS DISTINCT FROM c.version LIMIT %(limit)s"""


@dataclass(frozen=True)
class Page:
    """Documents in order of their ids: how many were looked at, which to copy, which copies to take away.

    `to_copy`: (doc_id, how many chunks it has now).
    """

    documents: int
    to_copy: list[tuple[str, int]]
    to_remove: list[str]


def pending_pages(move: Move) -> Iterator[Page]:
    """One walk through all of the user's documents, a short transaction a page (two, where the name changes).

    What is written behind the walk is found by the next one.
    """
    after: str | None = ""
    while after is not None:
        place = {"user_hash": move.user_hash, "space": move.from_space}
        with tenant_transaction(move.user_hash, reads_state=False) as tx:
            stored = tx.execute(_STORED, {**place, "after": after, "limit": PAGE_DOCUMENTS}).fetchall()
        last = stored[-1][0] if len(stored) == PAGE_DOCUMENTS else None
        with tenant_transaction(move.target_hash, reads_state=False) as tx:
            params = {"user_hash": move.target_hash, "after": after, "last": last}
            copied = dict(tx.execute(_COPIED, params).fetchall())
        to_copy = [(doc_id, chunks) for doc_id, chunks, version in stored if copied.pop(doc_id, None) != version]
        gone = copied.keys() - {doc_id for doc_id, _, _ in stored}
        yield Page(len(stored), to_copy, sorted(gone))
        after = last


def pending_now(cursor: Executes, move: Move, *, limit: int) -> list[tuple[str, bool]]:
    """Up to `limit` documents that are not as they were copied, and whether they are gone.

    `cursor` sees the user under both of his names and holds the lock of his row: nothing changes any more.
    """
    params = {
        "user_hash": move.user_hash, "from_space": move.from_space, "target_hash": move.target_hash, "limit": limit,
    }  # fmt: skip
    rows: list[tuple[str, bool]] = cursor.execute(_PENDING, params).fetchall()
    return rows
