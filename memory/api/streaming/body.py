"""The body of a streaming response: bytes in pieces, and an end that comes once, however it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from memory.api.streaming.client import PIECE_BYTES, StreamClient
from memory.problems import Outcome


class StreamedBody:
    """Bytes to send, made from `source`, in pieces of at most PIECE_BYTES; `client` raises for one that does not leave.

    However it ends (to its end, by an error, with a client that leaves, or never begun), `source` is closed, which
    must be a generator, and then `release` is called, once. A subclass says in `__next__` what comes when.
    """

    def __init__(self, source: Iterator[Any], *, client: StreamClient, release: Callable[[], None]):
        self._source = source
        self._client = client
        self._release = release
        self._pieces: list[bytes] = []
        self._is_finished = False
        # How the request ended, once it has: a client who leaves before the end is no failure of the service.
        self.outcome: Outcome = "client"
        client.prepare()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        """Called by the server, as often as it likes; what has not come to its end is aborted by it."""
        self._finish()
        self._client.restore()

    def __del__(self):
        # A response that the server never iterated and never closed.
        self._finish()

    def _queue(self, whole: bytes) -> None:
        self._pieces += [whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES)]

    def _finish(self) -> None:
        """Call it before the server is told that this was all: who comes back then finds the slot free."""
        if self._is_finished:
            return
        self._is_finished = True
        try:
            self._source.close()  # type: ignore[attr-defined]
        finally:
            self._release()
