"""What a user leaves behind in a space, removed batch by batch after the switch, or when a move is given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory.moving.move import Move, end_move, require_move
from memory.rls import TenantTransaction, tenant_transaction

BATCH_ROWS = 1_000

# Every tenant table with rows of a space, and what orders them beside the user and the space.
SPACE_TABLES = {
    "memory_chunks": ("doc_id", "chunk_index"),
    "memory_lexical_blocks": ("block", "segment"),
    "memory_lexical_segments": ("segment",),
    "memory_lexical_chunks": ("chunk_id",),
    "memory_search_keys": ("space",),
}

# A document's own row has its speaker's id under the search key of the space before; its chunks have the one of now.
_SPEAKERS = """
WITH page AS MATERIALIZED (
    SELECT doc_id FROM memory_documents
    WHERE user_hash = %(user_hash)s AND speaker IS NOT NULL AND doc_id > %(after)s ORDER BY doc_id LIMIT %(limit)s
), renewed AS (
    UPDATE memory_documents d SET speaker = c.speaker FROM memory_chunks c
    WHERE d.user_hash = %(user_hash)s AND d.doc_id IN (SELECT doc_id FROM page)
      AND c.user_hash = %(user_hash)s AND c.space = %(space)s::smallint AND c.doc_id = d.doc_id AND c.chunk_index = 0
      AND c.speaker IS NOT NULL AND d.speaker <> c.speaker
)
SELECT max(doc_id) FROM page"""
_NOTES = """
DELETE FROM memory_moved_documents WHERE user_hash = %(user_hash)s AND doc_id IN (
    SELECT doc_id FROM memory_moved_documents WHERE user_hash = %(user_hash)s ORDER BY doc_id LIMIT %(limit)s)
RETURNING 1"""


def remove_left_behind(move: Move, tell: Callable[[int], object]) -> None:
    """Remove what `move`, which has switched and kept the user's name, left behind; `tell` hears of rows.

    1. The speakers' ids in the documents' own rows are made those of the new space. Nobody needs to hear of it: they
       only say who is known, and whoever has the profile of before renews it with his next document of such a speaker.
    2. Rows of the space before go, its search key last.
    3. The notes of what was copied go, and with the last of them the move.

    Killed anywhere it is done again from the beginning. Raises MoveLost where somebody else has finished or erased it.
    """
    after: str | None = ""
    while after is not None:
        params = {"user_hash": move.user_hash, "space": move.space, "after": after, "limit": BATCH_ROWS}
        with _removing(move) as tx:
            [after] = tx.execute(_SPEAKERS, params).fetchone()
    remove_space(move, move.from_space, tell)
    _forget_notes(move)
    with _removing(move) as tx:
        end_move(tx, move)


def give_up(move: Move, tell: Callable[[int], object]) -> None:
    """Take back a move that has not switched: what was copied goes, and the user stays where he is. Raises MoveLost."""
    remove_space(move, move.space, tell)
    _forget_notes(move)
    with _removing(move) as tx:
        end_move(tx, move)


def remove_space(move: Move, space: int, tell: Callable[[int], object]) -> None:
    """Delete the user's rows of `space`, which is not the one he is in, a batch a transaction."""
    for table, columns in SPACE_TABLES.items():
        key = ", ".join(columns)
        batch = (
            f"SELECT {key} FROM {table} WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint"
            f" ORDER BY {key} LIMIT %(limit)s"
        )
        delete = (
            f"DELETE FROM {table} WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint"
            f" AND ({key}) IN ({batch})"
        )
        rows = BATCH_ROWS
        while rows == BATCH_ROWS:
            with _removing(move) as tx:
                deleted = tx.execute(delete, {"user_hash": move.user_hash, "space": space, "limit": BATCH_ROWS})
                tx.sync()
                rows = deleted.rowcount
            tell(rows)


def _forget_notes(move: Move) -> None:
    rows = BATCH_ROWS
    while rows == BATCH_ROWS:
        with _removing(move) as tx:
            rows = len(tx.execute(_NOTES, {"user_hash": move.target_hash, "limit": BATCH_ROWS}).fetchall())


@contextmanager
def _removing(move: Move) -> Iterator[TenantTransaction]:
    """A writing transaction of the user, in which `move` is as it was."""
    with tenant_transaction(move.user_hash, write=True) as tx:
        tx.state()
        require_move(tx, move)
        yield tx
