"""An export on its way out, as a reader of any speed takes it: never for longer than EXPORT_MAX_SECONDS."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from memory import metrics
from memory.api.streaming.body import StreamedBody
from memory.api.streaming.client import StreamClient
from memory.errors import is_ours

logger = logging.getLogger(__name__)

# Wall clock, for one whole export. It holds a thread of its worker, and cannot be taken up again where it broke off:
# room for 750 MB at 10 Mbit/s, and not for a reader that takes a few bytes at a time to keep the thread.
EXPORT_MAX_SECONDS = 600.0


class ExportBody(StreamedBody):
    """Lines as bytes. Ends when they do; breaks off with what they raise, or TimeoutError past EXPORT_MAX_SECONDS."""

    def __init__(self, lines: Iterator[bytes], *, client: StreamClient, release: Callable[[], None]):
        super().__init__(lines, client=client, release=release)
        self._ends_at = time.monotonic() + EXPORT_MAX_SECONDS

    def __next__(self) -> bytes:
        if self._is_finished:
            raise StopIteration
        try:
            if time.monotonic() >= self._ends_at:
                metrics.errors.labels("export", "timeout").inc()
                logger.error("an export was broken off: its reader took too long")
                raise TimeoutError("an export's reader took too long")
            if not self._pieces:
                self._queue(next(self._source))
            return self._pieces.pop(0)
        except StopIteration:
            self.outcome = "ok"
            self._finish()
            raise
        except BaseException as exc:
            if is_ours(exc) and not isinstance(exc, TimeoutError | GeneratorExit | OSError):
                self.outcome = "server"
            self._finish()
            raise
