"""An asynchronous connection of psycopg's as a synchronous one, for a thread beside its event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self, TypeVar

import psycopg

Result = TypeVar("Result")


class AwaitedConnection:
    """`conn`, for the work of one thread: each statement is carried out by the loop that this is made in.

    Nobody else uses `conn` while `run` is awaited.
    """

    def __init__(self, conn: psycopg.AsyncConnection[Any]):
        self._conn = conn
        self._loop = asyncio.get_running_loop()
        self._is_cancelled = False

    def cursor(self) -> AwaitedCursor:
        return AwaitedCursor(self, self._conn.cursor())

    async def run(self, work: Callable[[], Result]) -> Result:
        """`work()` in a thread of its own.

        Cancelled, it waits until the thread has ended, which no statement is carried out for any more: afterwards
        `conn` is its owner's alone.
        """
        thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            self._is_cancelled = True
            while not thread.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([thread])
            if not thread.cancelled():
                thread.exception()  # looked at, so that the loop does not report it as nobody's
            raise

    def wait_for(self, asked: Coroutine[Any, Any, Result]) -> Result:
        """What `asked` gives, in the thread. Raises concurrent.futures.CancelledError once `run` is cancelled."""
        if self._is_cancelled:
            asked.close()
            raise concurrent.futures.CancelledError
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()


class AwaitedCursor:
    """A cursor of an AwaitedConnection (`memory/isolation/connection.py:Cursor`)."""

    def __init__(self, connection: AwaitedConnection, cursor: psycopg.AsyncCursor[Any]):
        self._connection = connection
        self._cursor = cursor

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def execute(self, sql: str, params: Any = None, /) -> Self:
        self._connection.wait_for(self._cursor.execute(sql.encode(), params))
        return self

    def fetchone(self) -> Any:
        return self._connection.wait_for(self._cursor.fetchone())

    def fetchall(self) -> list[Any]:
        return self._connection.wait_for(self._cursor.fetchall())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.wait_for(self._cursor.close())
