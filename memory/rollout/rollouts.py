"""The table of canary runs, `memory_rollouts`: how far each is and how it ended. As r1_maint."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from django.db import connections

MAINT = "maint"
Verdict = Literal["promoted", "rolled_back", "held", "aborted"]
Request = Literal["promote", "abort"]
_COLUMNS = "id, state, stage, percent, began, stage_began, ended, verdict, reasons, request, evidence, forced"


@dataclass(frozen=True)
class Rollout:
    """One run. `stage` is the percentage it is to hold, `percent` the one it has; `forced` why it did not wait."""

    id: uuid.UUID
    state: Literal["running", "ended"]
    stage: int
    percent: int
    began: datetime
    stage_began: datetime
    ended: datetime | None
    verdict: Verdict | None
    reasons: tuple[str, ...]
    request: Request | None
    evidence: str
    forced: str


def latest_rollout() -> Rollout | None:
    """The run that began last."""
    return _one(f"SELECT {_COLUMNS} FROM memory_rollouts ORDER BY began DESC, ended DESC NULLS FIRST LIMIT 1", [])


def rollout_of(rollout: uuid.UUID) -> Rollout | None:
    return _one(f"SELECT {_COLUMNS} FROM memory_rollouts WHERE id = %s", [rollout])


def rolled_back_since(hours: float) -> Rollout | None:
    """The last run that was rolled back within so many hours."""
    return _one(
        f"SELECT {_COLUMNS} FROM memory_rollouts WHERE verdict = 'rolled_back'"
        " AND ended > now() - make_interval(secs => %s) ORDER BY ended DESC LIMIT 1",
        [hours * 3600],
    )


def begin(stage: int, evidence: str, forced: str = "") -> Rollout:
    """A new run, with no traffic yet. Raises IntegrityError while another one is under way."""
    begun = _one(
        "INSERT INTO memory_rollouts (id, state, stage, percent, evidence, forced)"
        f" VALUES (%s, 'running', %s, 0, %s, %s) RETURNING {_COLUMNS}",
        [uuid.uuid4(), stage, evidence, forced],
    )
    assert begun is not None
    return begun


def enter_stage(rollout: uuid.UUID, stage: int) -> None:
    _run("UPDATE memory_rollouts SET stage = %s, stage_began = now() WHERE id = %s", [stage, rollout])


def set_percent(rollout: uuid.UUID, percent: int) -> None:
    _run("UPDATE memory_rollouts SET percent = %s WHERE id = %s", [percent, rollout])


def ask(rollout: uuid.UUID, request: Request) -> None:
    """Leave word for the process that runs it, which looks at every evaluation."""
    _run("UPDATE memory_rollouts SET request = %s WHERE id = %s AND state = 'running'", [request, rollout])


def end(rollout: uuid.UUID, verdict: Verdict, reasons: list[str], percent: int) -> None:
    """The run is over. One that has ended stays as it ended."""
    _run(
        "UPDATE memory_rollouts SET state = 'ended', ended = now(), verdict = %s, reasons = %s, percent = %s"
        " WHERE id = %s AND state = 'running'",
        [verdict, json.dumps(reasons), percent, rollout],
    )


def _run(sql: str, params: list[Any]) -> None:
    with connections[MAINT].cursor() as cursor:
        cursor.execute(sql, params)


def _one(sql: str, params: list[Any]) -> Rollout | None:
    with connections[MAINT].cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
    if row is None:
        return None
    fields: dict[str, Any] = dict(zip(_COLUMNS.split(", "), row, strict=True))
    reasons = fields["reasons"]
    fields["reasons"] = tuple(json.loads(reasons) if isinstance(reasons, str) else reasons)
    return Rollout(**fields)
