"""The first page's numbers and charts: how much there is, how it grows, how it is doing, what waits to be done.

All of it from the metadata views and this process's metrics. A thread looks, each query for QUERY_MS at most, and what
it saw is shown until it has looked again: no reader waits for a table to be counted.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import prometheus_client
from django.conf import settings
from django.db import DatabaseError, connections
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from memory.rollout.exposition import Scrape, ScrapedWindow, parse
from memory.sealing.key_ages import key_ages_days
from memory.staff.bounded import rows_within
from memory.staff.charts import Chart

KEPT_SECONDS = 30.0
# How long the first reader waits for the first look. Small tables are counted by then.
FIRST_LOOK_SECONDS = 0.15
QUERY_MS = 1500
DAYS = 14
BIGGEST = 10
STAGES = ("embed", "ann", "open", "rerank", "total")
_OUTCOMES = ("ok", "client", "rate", "quota", "timeout", "server")

_TOTALS = "SELECT count(*), coalesce(sum(document_count), 0), coalesce(sum(chunk_count), 0) FROM memory_tenants_meta"
_BIGGEST = "SELECT user_hash, chunk_count FROM memory_tenants_meta ORDER BY chunk_count DESC LIMIT %s"
_BEGAN = """
SELECT (created_at AT TIME ZONE 'UTC')::date, count(*) FROM memory_tenants_meta WHERE created_at > %s GROUP BY 1"""
_WRITTEN = """
SELECT (updated_at AT TIME ZONE 'UTC')::date, count(*) FROM memory_documents_meta WHERE updated_at > %s GROUP BY 1"""
_PENDING = """
SELECT (SELECT count(*) FROM memory_moves_meta WHERE state = 'copying'),
       (SELECT count(*) FROM memory_moves_meta WHERE state = 'removing'),
       (SELECT count(*) FROM memory_tenants_meta WHERE state = 'erasing'),
       (SELECT count(*) FROM memory_chunks_meta WHERE quarantined_at IS NOT NULL),
       (SELECT count(*) FROM memory_key_rotations WHERE finished_at IS NULL),
       (SELECT count(*) FROM memory_rollouts WHERE state = 'running')"""
_EXPIRED = "SELECT count(*) FROM memory_documents_meta WHERE expires_at <= now()"

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_kept: tuple[float, Dashboard] | None = None
_looking: threading.Thread | None = None


@dataclass(frozen=True)
class Dashboard:
    """`totals`, `pending` and `keys`: name -> number, or None where counting took too long. `at`: when it was seen."""

    at: datetime
    totals: dict[str, int | None]
    pending: dict[str, int | None]
    keys: list[tuple[str, float, int]]
    charts: list[Chart]
    too_slow: list[str] = field(default_factory=list)


def dashboard() -> Dashboard | None:
    """As it was seen last, and looked at again where that was KEPT_SECONDS ago; None before the first look is done."""
    global _looking
    with _lock:
        is_old = _kept is None or time.monotonic() > _kept[0] + KEPT_SECONDS
        if is_old and (_looking is None or not _looking.is_alive()):
            _looking = threading.Thread(target=_look_and_keep, name="dashboard", daemon=True)
            _looking.start()
        looking = _looking
    if _kept is None and looking is not None:
        looking.join(FIRST_LOOK_SECONDS)
    return _kept[1] if _kept else None


def wait_for_dashboard() -> None:
    """Until the look that is under way, if one is, has ended."""
    if (looking := _looking) is not None:
        looking.join()


def forget_dashboard() -> None:
    """As at the start of the process."""
    global _kept, _looking
    with _lock:
        _kept = _looking = None


def _look_and_keep() -> None:
    global _kept
    try:
        seen = _look()
        with _lock:
            if _looking is threading.current_thread():
                _kept = time.monotonic(), seen
    except DatabaseError as exc:
        logger.warning("the first page's numbers cannot be read (%s)", type(exc).__name__)
    finally:
        connections["staff"].close()


def _look() -> Dashboard:
    too_slow: list[str] = []

    def rows(what: str, sql: str, params: list[Any] | None = None) -> list[tuple] | None:
        found = rows_within(QUERY_MS, sql, params)
        if found is None:
            too_slow.append(what)
        return found

    since = datetime.now(UTC) - timedelta(days=DAYS)
    [totals] = rows("totals", _TOTALS) or [(None, None, None)]
    [pending] = rows("pending work", _PENDING) or [(None,) * 6]
    [[expired]] = rows("expired documents", _EXPIRED) or [(None,)]
    biggest = rows("the biggest tenants", _BIGGEST, [BIGGEST]) or []
    began = rows("new tenants", _BEGAN, [since])
    written = rows("documents written", _WRITTEN, [since])
    window = ScrapedWindow([Scrape(0.0, {}), parse(_exposed(), 1.0)])
    waiting = (
        "moves: copying",
        "moves: removing",
        "erasures begun",
        "chunks quarantined",
        "key rotations",
        "canary runs",
    )
    return Dashboard(
        at=datetime.now(UTC),
        totals=dict(zip(("tenants", "documents", "chunks"), totals, strict=True)),
        pending=dict(zip(waiting, pending, strict=True)) | {"documents expired": expired},
        keys=_key_ages(),
        charts=[
            _by_day("New tenants a day", began, "tenants"),
            _by_day("Documents written a day", written, "documents"),
            Chart(
                "Biggest tenants",
                [(user_hash[:12], float(chunks)) for user_hash, chunks in biggest],
                f"the {len(biggest)} tenants with the most chunks",
                "chunks",
            ),
            _outcomes(window),
            _latencies(window),
        ],
        too_slow=too_slow,
    )


def _key_ages() -> list[tuple[str, float, int]]:
    """(which, days in use, days that it may be), of the master key and the tenant HMAC key."""
    allowed = {"master": settings.MEMORY_MASTER_KEY_DAYS, "hmac": settings.MEMORY_HMAC_KEY_DAYS}
    connections["staff"].ensure_connection()
    ages = key_ages_days(connections["staff"].connection)
    return [(key, days, allowed[key]) for key, days in ages.items()]


def _by_day(title: str, rows: list[tuple] | None, unit: str) -> Chart:
    today = datetime.now(UTC).date()
    found = dict(rows or [])
    days = [today - timedelta(days=ago) for ago in range(DAYS - 1, -1, -1)]
    bars = [(day.isoformat(), float(found.get(day, 0))) for day in days] if rows is not None else []
    return Chart(title, bars, f"{int(sum(value for _, value in bars)):,} {unit} in {DAYS} days", unit)


def _outcomes(window: ScrapedWindow) -> Chart:
    counts = [(outcome, window.increase("memory_requests_total", outcome=outcome)) for outcome in _OUTCOMES]
    failed = sum(count for outcome, count in counts if outcome in ("timeout", "server"))
    judged = failed + dict(counts)["ok"]
    said = f"{failed:,.0f} of {judged:,.0f} requests failed by the service since it started"
    return Chart("Requests by outcome", counts if sum(dict(counts).values()) else [], said, "requests")


def _latencies(window: ScrapedWindow) -> Chart:
    bars = []
    for stage in STAGES:
        p95, _ = window.quantile(0.95, "memory_query_latency_ms", stage=stage)
        if p95 is not None:
            bars.append((stage, round(p95, 2)))
    said = ", ".join(f"{stage} {p95:g} ms" for stage, p95 in bars)
    return Chart("Query p95 by stage", bars, f"since the start: {said}" if bars else "no query yet", "ms")


def _exposed() -> str:
    """The metrics page of this process and its siblings."""
    registry = prometheus_client.REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return prometheus_client.generate_latest(registry).decode()
