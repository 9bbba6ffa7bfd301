"""A database connection as isolation sees it: Django's, or psycopg's own where a caller brings that one. No Django."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import UUID

from psycopg.pq import Format

Params = Sequence[Any] | Mapping[str, Any]
Row = tuple[Any, ...]


class Cursor(Protocol):
    """A statement and what it found; a row is a tuple of its columns. In a pipeline a fetch waits for the server."""

    @property
    def rowcount(self) -> int: ...

    def execute(self, sql: str, params: Any = None, /) -> object: ...

    def fetchone(self) -> Any:
        """The next row; None where none is left."""

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> object: ...


class Connection(Protocol):
    """Gives cursors; what more it can do depends on which of the two it is."""

    def cursor(self) -> Cursor: ...


def ask_for_binary(cursor: Cursor) -> None:
    """Let what `cursor` finds come as the server holds it, not as text; Django's has no way to ask psycopg's for it."""
    of_psycopg: Any = getattr(cursor, "cursor", cursor)
    of_psycopg.format = Format.BINARY


def array(values: Iterable[int | float | UUID | str]) -> str:
    """An array as PostgreSQL reads it, for a parameter with a cast; of what needs no quotes: strings are ids in hex.

    psycopg names the type of a list by what is in it, an empty one's or that of small integers too, and prepares a
    statement once for each of the types that its parameters come with.
    """
    return f"{{{','.join(map(str, values))}}}"
