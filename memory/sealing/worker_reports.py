"""Which worker holds which key: each says so of itself in `memory_workers`, at its start and every few seconds.

Whoever is about to make a key the one in use asks first who lacks it (`workers_lacking_master`,
`workers_lacking_hmac`). A worker that has not been seen for LIVE_SECONDS is not live. One that starts says what it
holds before it serves, and then reads what has been promoted: with the table locked between the question and the
promotion (`hold_reports`) it is either asked after or sees what was promoted.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import psycopg
from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.keys.fingerprints import SINGLE_HMAC_KEY_ID, hmac_key_fingerprints, master_key_fingerprints
from memory.keys.secret_files import SettingError
from memory.sealing.apart import at_each_turn, connect_apart
from memory.sealing.promotion import read_promoted
from memory.sealing.providers import wraps_with

BEAT_SECONDS = 5.0
LIVE_SECONDS = 30
KEPT_HOURS = 24

_SAY = """
INSERT INTO memory_workers AS w
    (worker_id, host, pid, version, master_keys, hmac_keys, active_master_key, active_hmac_key)
VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s)
ON CONFLICT (worker_id) DO UPDATE SET
    seen_at = now(), master_keys = excluded.master_keys, hmac_keys = excluded.hmac_keys,
    active_master_key = excluded.active_master_key, active_hmac_key = excluded.active_hmac_key"""
_WITHDRAW = "DELETE FROM memory_workers WHERE worker_id = %s"
_FORGET = "DELETE FROM memory_workers WHERE seen_at < now() - make_interval(hours => %s)"
_LIVE = """
SELECT worker_id, host, pid, version, started_at, seen_at, master_keys, hmac_keys, active_master_key, active_hmac_key
FROM memory_workers WHERE seen_at > now() - make_interval(secs => %s) ORDER BY host, pid, started_at"""
_HOLD = "LOCK TABLE memory_workers IN SHARE MODE"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerReport:
    """What one worker said last.

    `master_keys`, `hmac_keys`: id -> fingerprint of each that it holds. `active_master_key`: as `wraps_with` says.
    """

    worker_id: uuid.UUID
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    master_keys: dict[str, str]
    hmac_keys: dict[str, str]
    active_master_key: str | None
    active_hmac_key: str | None

    @property
    def name(self) -> str:
        """For a person: which process on which host."""
        return f"{self.host}:{self.pid}"

    @property
    def hmac_key_ids(self) -> tuple[str, ...]:
        """The ids of the tenant HMAC keys that it holds."""
        return tuple(sorted(self.hmac_keys))


def live_workers(connection: BaseDatabaseWrapper) -> list[WorkerReport]:
    """Every live worker of every host. `connection`: Django's, as r1_maint or r1_app."""
    with connection.cursor() as cursor:
        cursor.execute(_LIVE, [LIVE_SECONDS])
        rows = cursor.fetchall()
    return [WorkerReport(*row[:6], *map(_mapping, row[6:8]), *row[8:]) for row in rows]


def workers_lacking_master(
    connection: BaseDatabaseWrapper, key_id: str, fingerprint: str | None = None
) -> list[WorkerReport]:
    """The live workers without the master key of this id, or with another key under it than `fingerprint` says."""
    return [worker for worker in live_workers(connection) if _lacks(worker.master_keys, key_id, fingerprint)]


def workers_lacking_hmac(
    connection: BaseDatabaseWrapper, key_id: str, fingerprint: str | None = None
) -> list[WorkerReport]:
    """The live workers without the tenant HMAC key of this id, or with another key under it."""
    return [worker for worker in live_workers(connection) if _lacks(worker.hmac_keys, key_id, fingerprint)]


def hold_reports(connection: BaseDatabaseWrapper) -> None:
    """Until the transaction of `connection` (r1_maint's) ends, no worker says anything new."""
    with connection.cursor() as cursor:
        cursor.execute(_HOLD)


class Reporter:
    """Says for this process what it holds, from `begin` on, in a thread of its own; withdraws it at the exit."""

    def __init__(self) -> None:
        self._worker_id = uuid.uuid4()
        self._ended = threading.Event()

    def begin(self) -> None:
        """Say it once now, before this worker serves, and go on. Never fails: the thread tries again."""
        try:
            with connect_apart() as connection:
                self.say(connection)
                # After the report and not before it: what was promoted in between was not asked of this worker.
                read_promoted(connection)
                connection.execute(_FORGET, [KEPT_HOURS])
        except psycopg.Error as exc:
            logger.warning("what keys this worker holds cannot be said yet (%s)", type(exc).__name__)
        atexit.register(self.end)
        threading.Thread(target=self._run, name="worker-reports", daemon=True).start()

    def say(self, connection: psycopg.Connection) -> None:
        """One report. `connection` is r1_app's, in autocommit."""
        try:
            masters, hmacs = master_key_fingerprints(), hmac_key_fingerprints()
        except SettingError as exc:
            logger.error("what keys this worker holds cannot be said: %s", exc)
            return
        read_promoted(connection)
        connection.execute(
            _SAY,
            [self._worker_id, socket.gethostname(), os.getpid(), settings.SPECTACULAR_SETTINGS["VERSION"],
             json.dumps(masters), json.dumps(hmacs), wraps_with(), SINGLE_HMAC_KEY_ID],
        )  # fmt: skip

    def end(self) -> None:
        """Say no more, and that this worker is gone, so that nobody waits for it."""
        if self._ended.is_set():
            return
        self._ended.set()
        try:
            with connect_apart() as connection:
                connection.execute(_WITHDRAW, [self._worker_id])
        except psycopg.Error:
            # It is not live any more in LIVE_SECONDS, whatever its row says.
            pass

    def _run(self) -> None:
        at_each_turn(self._beats(), self.say, logger=logger, away="what keys this worker holds cannot be said")

    def _beats(self) -> Iterator[None]:
        while not self._ended.wait(BEAT_SECONDS):
            yield


def begin_reports() -> None:
    """Let this process say what it holds, from now on. Once a process, after its fork, before it serves."""
    Reporter().begin()


def _lacks(held: dict[str, str], key_id: str, fingerprint: str | None) -> bool:
    return held.get(key_id) is None or (fingerprint is not None and held[key_id] != fingerprint)


def _mapping(value: str | dict[str, str]) -> dict[str, str]:
    """Django leaves jsonb as text."""
    found: dict[str, str] = json.loads(value) if isinstance(value, str) else value
    return found
