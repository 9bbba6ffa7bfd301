"""A canary run put together: a new one, or the one whose process died, gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from memory.rollout import rollouts
from memory.rollout.burst import burst
from memory.rollout.calls import Unreachable, call
from memory.rollout.canary import CanaryRun, Clock
from memory.rollout.checklist import Reach, read_tokens
from memory.rollout.decision import SIGNALS
from memory.rollout.exposition import ScrapedSource
from memory.rollout.plan import Plan
from memory.rollout.promql import PrometheusSource
from memory.rollout.record import Record
from memory.rollout.rollouts import Rollout
from memory.rollout.signals import METRICS, Source
from memory.rollout.traffic import Traffic
from memory.rollout.tripwires import Tripwires

RETRY_HOURS = 24.0


def source_of(reach: Reach, plan: Plan) -> Source:
    """The Prometheus server where one is given, else the service's own page."""
    if reach.prometheus:
        return PrometheusSource(reach.prometheus)

    def fetch() -> str:
        answer = call(reach.metrics, token=reach.metrics_token)
        if answer.status != 200:
            raise Unreachable(f"the page of metrics answered {answer.status}")
        return answer.body.decode()

    longest_seconds = max(signal.window_seconds for signal in SIGNALS) * plan.pace
    return ScrapedSource(fetch, longest_seconds, METRICS)


def rollout_to_run(plan: Plan, folder: Path, forced: str) -> tuple[Rollout, bool]:
    """The run to go on with, or a new one, and whether it is gone on with.

    One that was held begins again at the stage that it holds. The caller holds the lock that a run holds.
    """
    latest = rollouts.latest_rollout()
    if latest is not None and latest.state == "running":
        return latest, True
    stages = [percent for percent, _ in plan.stages]
    stage = latest.stage if latest is not None and latest.verdict == "held" and latest.stage in stages else stages[0]
    return rollouts.begin(stage, str(folder), forced), False


def record_of(rollout: Rollout, clock: Clock = time, time_scale: float = 1.0) -> Record:
    """Where a run writes its evidence."""
    began = rollout.began.timestamp()
    return Record(Path(rollout.evidence), clock.time, lambda: (clock.time() - began) * time_scale / 60)


def make_run(
    rollout: Rollout, plan: Plan, reach: Reach, say: Callable[[str], object], *, clock: Clock = time
) -> tuple[CanaryRun, Record]:
    """The run and its record, whose folder is made. Raises OSError where it cannot be written."""
    record = record_of(rollout, clock, plan.time_scale)
    record.begin()
    tokens = read_tokens(Path(reach.tokens_file))
    traffic = Traffic(rollout, record, reach.proxy_config, clock.sleep, say)
    run = CanaryRun(
        rollout, plan, source_of(reach, plan), record, traffic, clock=clock,
        tripwires=Tripwires(reach.endpoint, (tokens[0], tokens[1])), burst=lambda: burst(reach.endpoint, tokens),
        alertmanager=reach.alertmanager, say=say,
    )  # fmt: skip
    return run, record


def new_folder(root: Path) -> Path:
    """Where a run that begins now writes its evidence, unless it is told otherwise."""
    return root / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
