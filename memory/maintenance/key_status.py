"""Where each key stands: what it wraps or seals, which worker holds it, how old it is. No key, and nobody's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.errors import MemoryServiceError
from memory.keys.fingerprints import hmac_key_fingerprints, master_key_fingerprints
from memory.maintenance.old_keys import needs_of_old_keys
from memory.sealing.counts import SEALS_ALERT, SEALS_REFUSE
from memory.sealing.generations import IDEMPOTENCY_HOURS
from memory.sealing.providers import current_key_id
from memory.sealing.worker_reports import WorkerReport, live_workers

# Longer than a rotation takes: what is left of one by then, somebody should see to.
OLD_KEY_DAYS = 1.0

# A key that nobody promoted has wrapped from the first on what is under it now.
_MASTER = """
WITH wrapped AS (
    SELECT key_id, count(*) FILTER (WHERE is_data) AS data_keys, count(*) FILTER (WHERE NOT is_data) AS search_keys,
           min(created_at) AS first_at
    FROM (SELECT key_id, created_at, true AS is_data FROM memory_data_keys
          UNION ALL SELECT key_id, created_at, false FROM memory_search_keys) k
    GROUP BY key_id)
SELECT key_id, coalesce(w.data_keys, 0), coalesce(w.search_keys, 0), coalesce(m.promoted_at, w.first_at)::text,
       extract(epoch FROM now() - coalesce(m.promoted_at, w.first_at))::float8 / 86400, m.unused_since::text,
       m.retired_at::text, m.fingerprint
FROM wrapped w FULL JOIN memory_master_keys m USING (key_id) ORDER BY key_id"""
_DATA = """
SELECT count(*), count(DISTINCT user_hash), count(*) - count(DISTINCT user_hash),
       extract(epoch FROM now() - min(created_at))::float8 / 86400
FROM memory_data_keys"""
# Newest keys that have been it for longer than an answer is promised, with older ones beside them.
_OVERDUE = """
SELECT count(*) FROM memory_data_keys o JOIN memory_tenants t USING (user_hash)
JOIN memory_data_keys n ON n.user_hash = t.user_hash AND n.generation = t.generation
WHERE o.generation <> t.generation AND n.created_at < now() - make_interval(hours => %(hours)s)"""
_SEALS = """
SELECT coalesce(max(seals), 0), count(*) FILTER (WHERE seals >= %(alert)s), count(*) FILTER (WHERE seals >= %(refuse)s)
FROM (SELECT seal_count AS seals FROM memory_tenants UNION ALL SELECT seal_count FROM memory_data_keys) s"""
_RUN = """
SELECT r.started_at::text, extract(epoch FROM now() - r.started_at)::float8 / 86400, (
    SELECT count(*) FROM memory_tenants t JOIN memory_data_keys k USING (user_hash, generation)
    WHERE k.created_at < r.started_at)
FROM memory_key_rotations r WHERE r.finished_at IS NULL"""
# The tenant HMAC key names users from the first space on, before which there can be none.
_HMAC_AGE = "SELECT extract(epoch FROM now() - min(created_at))::float8 / 86400 FROM memory_spaces"


def key_status(connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """One JSON document; `findings`: what an operator should see to, as sentences. `connection` is r1_maint's."""
    workers = live_workers(connection)
    try:
        wraps: str | None = current_key_id()
    except MemoryServiceError:
        wraps = None
    [data] = _rows(connection, _DATA)
    [seals] = _rows(connection, _SEALS, alert=SEALS_ALERT, refuse=SEALS_REFUSE)
    [[overdue]] = _rows(connection, _OVERDUE, hours=IDEMPOTENCY_HOURS)
    run = _rows(connection, _RUN)
    status: dict[str, Any] = {
        "provider": settings.MEMORY_KEY_PROVIDER,
        "wraps": wraps,
        "master_keys": _master_keys(connection, wraps, workers),
        "hmac_keys": _hmac_keys(connection, workers),
        "data_keys": {
            "users": data[1], "keys": data[0], "old_generations": data[2], "oldest_days": _days(data[3]),
            "overdue": overdue, "needed_by": needs_of_old_keys(connection)[1] if data[2] else {},
            "most_seals": seals[0], "past_2_31_seals": seals[1], "spent_at_2_32_seals": seals[2],
        },
        "data_rotation": (
            {"started_at": run[0][0], "days": _days(run[0][1]), "users_left": run[0][2]} if run else None
        ),
        "workers": [
            {"name": worker.name, "version": worker.version, "started_at": worker.started_at.isoformat(),
             "seen_at": worker.seen_at.isoformat(), "wraps": worker.active_master_key,
             "master_keys": sorted(worker.master_keys), "hmac_keys": list(worker.hmac_key_ids)}
            for worker in workers
        ],
        "policy_days": {"master": settings.MEMORY_MASTER_KEY_DAYS, "hmac": settings.MEMORY_HMAC_KEY_DAYS},
    }  # fmt: skip
    return {**status, "findings": list(_findings(status))}


def status_table(status: dict[str, Any]) -> str:
    """`status` for a person: the keys, one a line, then the workers and the findings."""
    lines = [_line("key", "state", "data keys", "search keys", "days", "held by")]
    for key in status["master_keys"]:
        lines.append(
            _line(
                f"master {key['key_id']}", key["state"], key["data_keys"], key["search_keys"], key["days"], _held(key)
            )
        )
    for key in status["hmac_keys"]:
        lines.append(_line(f"hmac {key['key_id']}", "active", "", "", key["days"], _held(key)))
    data = status["data_keys"]
    lines.append(_line(f"data, {data['users']} users", "newest", data["users"], "", data["oldest_days"], ""))
    lines.append(_line("data", "old generations", data["old_generations"], "", "", ""))
    lines.append(f"most seals by one data key: {data['most_seals']} of {SEALS_REFUSE}")
    lines.append(f"live workers: {', '.join(worker['name'] for worker in status['workers']) or 'none'}")
    return "\n".join([*lines, *(f"! {finding}" for finding in status["findings"])])


def _master_keys(
    connection: BaseDatabaseWrapper, wraps: str | None, workers: list[WorkerReport]
) -> list[dict[str, Any]]:
    here = master_key_fingerprints()
    found = {row[0]: row for row in _rows(connection, _MASTER)}
    known = sorted({*found, *here, *(key_id for worker in workers for key_id in worker.master_keys)})
    keys = []
    for key_id in known:
        _, data, search, since, days, unused, retired, mark = found.get(key_id, (key_id, 0, 0, *[None] * 5))
        mark = mark or here.get(key_id)
        holding = [w for w in workers if key_id in w.master_keys and (not mark or w.master_keys[key_id] == mark)]
        state = (
            "retired" if retired else "active" if key_id == wraps else "old" if data + search
            else "unused" if since or unused else "added"
        )  # fmt: skip
        keys.append({
            "key_id": key_id, "state": state, "data_keys": data, "search_keys": search, "since": since,
            "days": _days(days), "unused_since": unused, "retired_at": retired,
            "held_by_workers": len(holding), "workers": len(workers), "held_here": key_id in here,
            "is_local": ":" not in key_id,
        })  # fmt: skip
    return keys


def _hmac_keys(connection: BaseDatabaseWrapper, workers: list[WorkerReport]) -> list[dict[str, Any]]:
    [[days]] = _rows(connection, _HMAC_AGE)
    return [
        {"key_id": key_id, "days": _days(days), "workers": len(workers),
         "held_by_workers": sum(worker.hmac_keys.get(key_id) == mark for worker in workers)}
        for key_id, mark in hmac_key_fingerprints().items()
    ]  # fmt: skip


def _findings(status: dict[str, Any]) -> Iterator[str]:
    if status["wraps"] is None:
        yield "no new key can be wrapped by this process now"
    wraps_for_days = next((key["days"] or 0 for key in status["master_keys"] if key["state"] == "active"), 0)
    for key in status["master_keys"]:
        named, uses = f"master key {key['key_id']}", key["data_keys"] + key["search_keys"]
        if key["state"] == "active" and key["is_local"] and (key["days"] or 0) > settings.MEMORY_MASTER_KEY_DAYS:
            yield f"{named} has wrapped for {key['days']:.0f} days, more than {settings.MEMORY_MASTER_KEY_DAYS}"
        if key["is_local"] and (uses or key["state"] == "active") and key["held_by_workers"] < key["workers"]:
            yield f"{key['workers'] - key['held_by_workers']} live workers lack {named}, which is in use"
        if key["is_local"] and uses and not (key["workers"] or key["held_here"]):
            yield f"{named} wraps {uses} keys, and nobody here has it"
        if key["state"] == "retired" and (uses or key["held_by_workers"] or key["held_here"]):
            yield f"{named} is retired, and " + (f"{uses} keys are under it" if uses else "its bytes are held still")
        if key["state"] == "old" and wraps_for_days >= OLD_KEY_DAYS:
            yield f"{uses} keys are under {named} still, which wraps no new ones: rotate_keys --rewrap"
    for key in status["hmac_keys"]:
        if (key["days"] or 0) > settings.MEMORY_HMAC_KEY_DAYS:
            yield f"HMAC key {key['key_id']} is {key['days']:.0f} days old, more than {settings.MEMORY_HMAC_KEY_DAYS}"
        if key["held_by_workers"] < key["workers"]:
            yield f"{key['workers'] - key['held_by_workers']} live workers lack HMAC key {key['key_id']}"
    if status["data_keys"]["past_2_31_seals"]:
        yield f"{status['data_keys']['past_2_31_seals']} data keys have sealed 2^31 times or more: rotate_keys --data"

    data, run = status["data_keys"], status["data_rotation"]
    if data["overdue"]:
        needs = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in data["needed_by"].items() if count)
        yield (
            f"{data['overdue']} data keys were replaced more than {IDEMPOTENCY_HOURS} hours ago and are there still"
            f"{f', for {needs}' if needs else ''}: rotate_keys --data --clear"
        )
    if run and run["days"] >= OLD_KEY_DAYS:
        yield f"new data keys for all are given since {run['started_at']}, {run['users_left']} users have none yet"


def _held(key: dict[str, Any]) -> str:
    return f"{key['held_by_workers']} of {key['workers']} workers"


def _line(*cells: object) -> str:
    key, *rest = ("" if cell is None else str(cell) for cell in cells)
    return f"{key:<24}" + "".join(f"{cell:>16}" for cell in rest)


def _days(days: float | None) -> float | None:
    return None if days is None else round(days, 1)


def _rows(connection: BaseDatabaseWrapper, sql: str, **params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return list(cursor.fetchall())
