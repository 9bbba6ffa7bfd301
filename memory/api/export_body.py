"""An export on its way out, as a reader of any speed takes it: never for longer than EXPORT_MAX_SECONDS."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from memory import metrics
from memory.api.stream_client import PIECE_BYTES, StreamClient

logger = logging.getLogger(__name__)

# Wall clock, for one whole export. It holds a thread of its worker, and cannot be taken up again where it broke off:
# room for 750 MB at 10 Mbit/s, and not for a reader that takes a few bytes at a time to keep the thread.
EXPORT_MAX_SECONDS = 600.0


class ExportBody:
    """Lines as bytes to send, in pieces of at most PIECE_BYTES.

    Ends when the lines do, and breaks off with what they raise, or with TimeoutError past EXPORT_MAX_SECONDS;
    `client` raises one for a piece that does not leave. However it ends, or where it never began, the lines are
    closed and `release` is called once.
    """

    def __init__(self, lines: Iterator[bytes], *, client: StreamClient, release: Callable[[], None]):
        self._lines = lines
        self._client = client
        self._release = release
        self._pieces: list[bytes] = []
        self._is_finished = False
        self._ends_at = time.monotonic() + EXPORT_MAX_SECONDS
        client.prepare()

    def __iter__(self) -> ExportBody:
        return self

    def __next__(self) -> bytes:
        if self._is_finished:
            raise StopIteration
        try:
            if time.monotonic() >= self._ends_at:
                metrics.errors.labels("export", "timeout").inc()
                logger.error("an export was broken off: its reader took too long")
                raise TimeoutError("an export's reader took too long")
            if not self._pieces:
                line = next(self._lines)
                self._pieces = [line[at : at + PIECE_BYTES] for at in range(0, len(line), PIECE_BYTES)]
            return self._pieces.pop(0)
        except BaseException:
            # Before the server says that this was all: who comes back then finds the slot free.
            self._finish()
            raise

    def close(self) -> None:
        """As often as one likes."""
        self._finish()
        self._client.restore()

    def __del__(self):
        # A response that the server never iterated and never closed.
        self._finish()

    def _finish(self) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        self._pieces = []
        try:
            self._lines.close()  # type: ignore[attr-defined]
        finally:
            self._release()
