"""Which launchers run over a var folder: one file each, named by process id and locked while it lives."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STOP_LIMIT_SECONDS = 30
POLL_SECONDS = 0.05


@contextmanager
def registered(folder: Path) -> Iterator[None]:
    """This process can be found by `stop_all` inside the block."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / str(os.getpid())
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def stop_all(folder: Path) -> list[int]:
    """SIGTERM every registered launcher and wait for its end; their process ids.

    Raises `TimeoutError` when one does not end. Files left by a killed launcher are removed: their
    lock is free, so the process id in their name is not looked at.
    """
    stopped = []
    for path in sorted(folder.glob("[0-9]*")):
        with suppress(FileNotFoundError), open(path) as file:
            if not _is_free(file):
                with suppress(ProcessLookupError):
                    os.kill(int(path.name), signal.SIGTERM)
                _wait_until_free(file, path.name)
                stopped.append(int(path.name))
            path.unlink(missing_ok=True)
    return stopped


def _is_free(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_until_free(file, name: str) -> None:
    deadline = time.monotonic() + STOP_LIMIT_SECONDS
    while not _is_free(file):
        if time.monotonic() > deadline:
            raise TimeoutError(f"launcher {name} does not stop")
        time.sleep(POLL_SECONDS)
