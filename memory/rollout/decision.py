"""Whether a canary may go on: ok, watch, hold or roll back, with reasons. Pure: no clock, no database, no network.

One table, SIGNALS, says what is judged and how; deploy/guide/canary.md shows the same table. What is judged are two
consecutive evaluations, each over half of a signal's window: a signal must be over its limit in both. So chance would
have to strike twice, in two samples that share no request; and a fault that lasts is over in both as soon as it is as
old as the window.

What has fewer than `n_min` is short. A share that is short counts as if all that is missing had been well, so that
many failures of few requests still roll back, and one of three does not. Other short signals are not judged by their
window. What is short is judged over the whole stage as well, once that has twice `n_min`, so that little traffic takes
time and no more; before that, the table says what becomes of the stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

NEW, STABLE = "r1", "r0.5"
# Whose the readings of a signal of the whole service are.
ALL = "all"


class Reading(NamedTuple):
    """One signal of one variant over one time; `value` is None where nothing was there to measure, `n` how much was."""

    value: float | None
    n: float


# By the signal's name, then by variant (ALL for one of the whole service).
Readings = Mapping[str, Mapping[str, Reading]]


class Action(IntEnum):
    """What follows from the signals, the mildest first."""

    OK = 0
    WATCH = 1  # go on looking; no next stage while it lasts
    HOLD = 2  # too few requests to judge by: no next stage before there are more
    ROLL_BACK = 3


Consequence = Literal["roll back at once", "roll back", "warn"]
WhenShort = Literal["hold", "pass over", "judge"]


@dataclass(frozen=True)
class Signal:
    """A row of the table. `watch` and `limit` are in `unit`; beyond them is above, or below where `is_floor`."""

    name: str
    scope: Literal["variant", "service"]
    watch: float | None
    limit: float
    beyond: Consequence
    n_min: int  # in each evaluation
    window_seconds: float  # of both evaluations together
    short: WhenShort
    unit: Literal["share", "ms", "count"]
    is_floor: bool = False

    def is_beyond(self, threshold: float | None, reading: Reading) -> bool:
        if threshold is None or (value := self._weighed(reading)) is None:
            return False
        return value < threshold if self.is_floor else value > threshold

    def is_short(self, reading: Reading) -> bool:
        return reading.value is None or reading.n < self.n_min

    def _weighed(self, reading: Reading) -> float | None:
        """The value; of a short share, as if what is missing had been well; of another that is short, None."""
        value, n = reading
        if value is None or not self.is_short(reading):
            return value
        if self.unit != "share":
            return None
        return 1 - (1 - value) * n / self.n_min if self.is_floor else value * n / self.n_min


_QUERY_SECONDS, _STREAM_SECONDS = 300.0, 600.0
SIGNALS = (
    Signal("rls_denied", "service", None, 0, "roll back at once", 0, _QUERY_SECONDS, "judge", "count"),
    Signal("contradictions", "service", None, 0, "roll back at once", 0, _QUERY_SECONDS, "judge", "count"),
    Signal("query_error_rate", "variant", 0.005, 0.01, "roll back", 300, _QUERY_SECONDS, "hold", "share"),
    Signal("request_error_rate", "variant", 0.005, 0.01, "roll back", 300, _QUERY_SECONDS, "hold", "share"),
    Signal("query_p95_ms", "variant", 350, 400, "roll back", 100, _QUERY_SECONDS, "hold", "ms"),
    Signal("first_token_p95_ms", "variant", 1300, 1500, "roll back", 50, _STREAM_SECONDS, "pass over", "ms"),
    Signal(
        "stream_success", "variant", 0.996, 0.995, "roll back", 400, _STREAM_SECONDS, "pass over", "share",
        is_floor=True,
    ),
    Signal("auth_p95_ms", "service", 40, 50, "roll back", 100, _QUERY_SECONDS, "hold", "ms"),
    Signal("rerank_p95_ms", "service", 130, 150, "roll back", 100, _QUERY_SECONDS, "pass over", "ms"),
    Signal("ann_p95_ms", "variant", 200, 250, "warn", 100, _QUERY_SECONDS, "pass over", "ms"),
    Signal("pool_share", "service", 0.80, 0.85, "warn", 1, _QUERY_SECONDS, "pass over", "share"),
)  # fmt: skip
BY_NAME = {signal.name: signal for signal in SIGNALS}
_NOTHING = Reading(None, 0)


@dataclass(frozen=True)
class Decision:
    """What to do, and why: a sentence for each signal that had a say. `both`: the stable variant degraded as well."""

    action: Action
    reasons: tuple[str, ...] = ()
    both: bool = False
    is_at_once: bool = False


def decide(evaluations: Sequence[Readings], stage: Readings | None = None) -> Decision:
    """Judge the last two evaluations, oldest first; the first one of a run stands alone, and rolls back nothing but
    what is to be rolled back at once. `stage`: the signals since the stage began, for those that are short.

    Limits are absolute: where the stable variant is beyond its limit too, it still rolls back, and says so.
    """
    latest: Readings = evaluations[-1] if evaluations else {}
    earlier: Readings = evaluations[-2] if len(evaluations) > 1 else {}
    findings = [_judge(signal, earlier, latest, stage or {}) for signal in SIGNALS]
    action = max((finding.action for finding in findings), default=Action.OK)
    severest_first = sorted((each for each in findings if each.action), key=lambda each: -each.action)
    return Decision(
        action,
        tuple(reason for finding in severest_first for reason in finding.reasons),
        any(finding.both for finding in findings),
        any(finding.is_at_once for finding in findings),
    )


def is_short(evaluations: Sequence[Readings]) -> bool:
    """Whether any signal has too few in any evaluation, so that the stage as a whole is worth a look."""
    return any(
        signal.is_short(_of(readings, signal, NEW if signal.scope == "variant" else ALL))
        for signal in SIGNALS
        for readings in evaluations
    )


def _judge(signal: Signal, earlier: Readings, latest: Readings, stage: Readings) -> Decision:
    whose = NEW if signal.scope == "variant" else ALL
    before, now = _of(earlier, signal, whose), _of(latest, signal, whose)
    if signal.beyond == "roll back at once":
        if any(signal.is_beyond(signal.limit, reading) for reading in (before, now)):
            return Decision(Action.ROLL_BACK, (f"{signal.name} counted {_most(before, now):g}",), is_at_once=True)
        return Decision(Action.OK)
    subject = f"{signal.name} of {'the service' if whose == ALL else whose}"
    is_over = signal.is_beyond(signal.limit, now)
    side = "under" if signal.is_floor else "over"
    if is_over and signal.is_beyond(signal.limit, before) and signal.beyond == "roll back":
        reason = f"{subject} is {_said(signal, now)}, {side} {_shown(signal, signal.limit)} in two evaluations"
        if both := whose == NEW and signal.is_beyond(signal.limit, _of(latest, signal, STABLE)):
            reason += f"; {STABLE} is at {_said(signal, _of(latest, signal, STABLE))}: both variants degrade"
        elif whose == NEW and (stable := _of(latest, signal, STABLE)).value is not None:
            reason += f"; {STABLE} is at {_said(signal, stable)}"
        return Decision(Action.ROLL_BACK, (reason,), both)
    reasons = []
    action = Action.OK
    if is_over or signal.is_beyond(signal.watch, now):
        threshold = signal.limit if is_over or signal.watch is None else signal.watch
        reasons.append(f"{subject} is {_said(signal, now)}, {side} {_shown(signal, threshold)}")
        action = Action.WATCH
    if whose == NEW and signal.is_beyond(signal.limit, _of(latest, signal, STABLE)):
        reasons.append(f"{signal.name} of {STABLE} is {_said(signal, _of(latest, signal, STABLE))}, beyond its limit")
        action = Action.WATCH
    if signal.is_short(now) or signal.is_short(before):
        whole = _of(stage, signal, whose)
        if whole.n >= 2 * signal.n_min:
            return _judge_stage(signal, subject, whole, Decision(action, tuple(reasons)))
    if signal.short == "hold" and (signal.is_short(now) or signal.is_short(before)):
        n = min(before.n, now.n)
        reasons.append(f"{subject} has n = {n:.0f}, and needs {signal.n_min} in each of two evaluations")
        action = Action.HOLD
    return Decision(action, tuple(reasons))


def _judge_stage(signal: Signal, subject: str, whole: Reading, otherwise: Decision) -> Decision:
    """By the whole stage, which has enough; never milder than by the window."""
    said = f"{subject} is {_said(signal, whole)} over the whole stage"
    if signal.beyond == "roll back" and signal.is_beyond(signal.limit, whole):
        return Decision(Action.ROLL_BACK, (f"{said}, beyond {_shown(signal, signal.limit)}",))
    if signal.is_beyond(signal.watch, whole):
        return Decision(Action.WATCH, (*otherwise.reasons, f"{said}, beyond {_shown(signal, signal.watch)}"))
    return otherwise


def _of(readings: Readings, signal: Signal, whose: str) -> Reading:
    return readings.get(signal.name, {}).get(whose, _NOTHING)


def _most(*readings: Reading) -> float:
    return max(reading.value or 0 for reading in readings)


def _said(signal: Signal, reading: Reading) -> str:
    return f"{_shown(signal, reading.value)} (n = {reading.n:.0f})"


def _shown(signal: Signal, value: float | None) -> str:
    """A value as a person reads it: shares in percent."""
    if value is None:
        return "not there"
    if signal.unit == "share":
        return f"{100 * value:.4g} %"
    return f"{value:.4g} ms" if signal.unit == "ms" else f"{value:g}"
