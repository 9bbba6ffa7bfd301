"""A log file that several processes write, turned over by size: for development, where nothing else looks after it."""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

MOST_BYTES = 5_000_000
KEPT_FILES = 3


class SharedLogHandler(logging.handlers.WatchedFileHandler):
    """Appends to `filename`; over `most_bytes` it becomes `filename.1`, that one `.2`, and so on up to `kept_files`.

    Whoever finds it too large turns it over, under a lock; the others see that and open the new one. Where the file
    cannot be written, lines go to stderr.
    """

    def __init__(self, filename: str | Path, *, most_bytes: int = MOST_BYTES, kept_files: int = KEPT_FILES):
        self._most_bytes, self._kept_files = most_bytes, kept_files
        # Opened with its first line, so that a command that logs no request makes no file.
        super().__init__(str(filename), delay=True, encoding="utf-8")

    def _open(self) -> TextIO:  # type: ignore[override]
        try:
            Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            return open(self.baseFilename, "a", encoding=self.encoding)
        except OSError:
            return open(os.dup(sys.stderr.fileno()), "a", encoding=self.encoding)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if os.path.getsize(self.baseFilename) >= self._most_bytes:
                self._turn_over()
        except OSError:
            pass  # not there yet, or not ours to turn over
        super().emit(record)

    def reopenIfNeeded(self) -> None:
        with suppress(OSError):
            super().reopenIfNeeded()

    def _turn_over(self) -> None:
        with open(f"{self.baseFilename}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Another process may have done it while this one waited.
            if os.path.getsize(self.baseFilename) < self._most_bytes:
                return
            for number in range(self._kept_files - 1, 0, -1):
                if os.path.exists(f"{self.baseFilename}.{number}"):
                    os.replace(f"{self.baseFilename}.{number}", f"{self.baseFilename}.{number + 1}")
            os.replace(self.baseFilename, f"{self.baseFilename}.1")
