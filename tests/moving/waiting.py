"""A process that has come to what we hold, seen from a connection of its own."""

from __future__ import annotations

import subprocess
import time

import psycopg

PATIENCE_SECONDS = 60
_WAITS_FOR_US = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid)))"


def until_it_waits(holder: psycopg.Connection, watcher: psycopg.Connection, process: subprocess.Popen) -> None:
    """Returns once somebody waits for `holder`. `watcher` is in no transaction, whose look would stay the first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not watcher.execute(_WAITS_FOR_US, [holder.info.backend_pid]).fetchone()[0]:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
