"""A canary run: a share of users gets the new variant, is looked at, and more do or none.

Each stage begins with a burst of queries. From then on the signals are judged every few seconds, the tripwires are
probed every minute, and a checkpoint is written every check; at the stage's end the next one begins, if all is ok.
A stage that cannot be judged or is to be watched waits as long again, and then the run ends as held, with the traffic
it has. What ends a run otherwise takes all traffic away: a rollback, an abort, a signal to stop, a database or metrics
that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from django.db import DatabaseError, InterfaceError

from memory.rollout import rollouts
from memory.rollout.alerts import NAME, send_alert
from memory.rollout.burst import summary
from memory.rollout.calls import Unreachable
from memory.rollout.decision import BY_NAME, NEW, Action, Decision, Readings, decide, is_short
from memory.rollout.plan import TRIPWIRE_SECONDS, Plan
from memory.rollout.record import Record
from memory.rollout.rollouts import Rollout, Verdict
from memory.rollout.signals import Source, evaluations, measure, of_stage, snapshot
from memory.rollout.traffic import Traffic
from memory.rollout.tripwires import Probe

BASELINE_SECONDS = 120.0


class Clock(Protocol):
    """Seconds since 1970, and waiting for some."""

    def time(self) -> float: ...
    def sleep(self, seconds: float, /) -> None: ...


class Probing(Protocol):
    """The two tripwire users."""

    def plant(self) -> Probe: ...
    def probe(self) -> Probe: ...
    def clear(self) -> None: ...


@dataclass(frozen=True)
class Ending:
    """How a run ended. `is_done`: the flag and the run's row could be written."""

    verdict: Verdict
    reasons: list[str]
    percent: int
    is_done: bool = True
    seconds_to_baseline: float | None = None


class _Stop(Exception):
    """The run ends here."""

    def __init__(self, verdict: Verdict, reasons: Sequence[str], percent: int = 0):
        super().__init__(verdict)
        self.verdict, self.reasons, self.percent = verdict, list(reasons), percent


class CanaryRun:
    """One run, from the stage that its row names. `burst` asks queries and gives lines of the load log."""

    def __init__(
        self, rollout: Rollout, plan: Plan, source: Source, record: Record, traffic: Traffic, *, clock: Clock,
        tripwires: Probing, burst: Callable[[], list[dict[str, Any]]], alertmanager: str, say: Callable[[str], object],
    ):  # fmt: skip
        self.rollout, self.plan, self._source, self._record, self._traffic = rollout, plan, source, record, traffic
        self._clock, self._tripwires, self._burst, self._say = clock, tripwires, burst, say
        self._alertmanager = alertmanager
        self._since = self._seen = self._stage_began = clock.time()
        self._probed = self._since - TRIPWIRE_SECONDS
        self.stage = rollout.stage
        self.decision = Decision(Action.HOLD)

    def run(self) -> Ending:
        """To its end. KeyboardInterrupt, which a signal to stop raises, goes on after traffic was taken away."""
        try:
            self._judge(self._since)
            self._note_failures("plant", self._tripwires.plant())
            for percent, seconds in self.plan.stages:
                if percent >= self.rollout.stage:
                    self._run_stage(percent, seconds)
            raise _Stop("promoted", ["every stage ended with every signal within its limits"], 100)
        except _Stop as stop:
            return self._end(stop)
        except (DatabaseError, InterfaceError) as exc:
            return self._end(_Stop("rolled_back", [f"the database failed ({type(exc).__name__})"]))
        except KeyboardInterrupt:
            self._end(_Stop("aborted", ["the run was told to stop"]))
            raise
        except Exception as exc:
            # A mistake of ours: nobody looks any more, and so nobody gets the new variant.
            self._end(_Stop("aborted", [f"the run itself failed ({type(exc).__name__})"]))
            raise

    def _run_stage(self, percent: int, seconds: float) -> None:
        self.stage = percent
        rollouts.enter_stage(self.rollout.id, percent)
        self._record.event("stage", percent=percent)
        self._say(f"{percent} % of users for {seconds / self.plan.time_scale:.0f} s")
        self._traffic.move(percent)
        lines = self._burst()
        self._record.load(lines)
        self._record.event("precheck", step="burst", **summary(lines))
        began = self._stage_began = self._clock.time()
        end, check = began + seconds / self.plan.time_scale, self.plan.check_seconds / self.plan.time_scale
        next_check = began + check
        while True:
            now = self._clock.time()
            self._evaluate(now)
            if now >= next_check:
                self._checkpoint(percent, now)
                next_check += check * max(1, (now - next_check) // check + 1)
            if now >= end and self.decision.action == Action.OK:
                return
            if now >= end + (end - began):
                raise _Stop("held", self.decision.reasons, percent)
            self._clock.sleep(self.plan.evaluate_seconds)

    def _evaluate(self, now: float) -> None:
        """Look once, and stop the run where that is to be."""
        row = rollouts.rollout_of(self.rollout.id)
        if row is None or row.state == "ended" or row.request == "abort":
            raise _Stop("aborted", ["aborted by hand"])
        if row.request == "promote":
            raise _Stop("promoted", [f"promoted by hand at {self.stage} %"], 100)
        if now - self._probed >= self.plan.tripwire_seconds:
            self._probed = now
            probe = self._tripwires.probe()
            self._note_failures("probe", probe)
            if probe.hits:
                raise _Stop("rolled_back", probe.hits)
        self._judge(now)

    def _judge(self, now: float) -> None:
        """Read metrics and decide. Where they cannot be read for too long, the run ends: nobody sees what it does."""
        try:
            self._source.look(now)
            judged = evaluations(self._source, now, pace=self.plan.pace, since=self._since)
            self.decision = decide(judged)
            if self.decision.action != Action.ROLL_BACK and is_short(judged):
                self.decision = decide(judged, of_stage(self._source, now, self._stage_began))
        except (Unreachable, ValueError) as exc:
            blind = now - self._seen
            if blind >= self.plan.blind_seconds:
                raise _Stop("rolled_back", [f"metrics could not be read for {blind:.0f} s: {exc}"]) from None
            self._say(f"metrics cannot be read: {exc}")
            return
        self._seen = now
        if self.decision.action == Action.ROLL_BACK:
            raise _Stop("rolled_back", self.decision.reasons)

    def _signals(self, now: float) -> Readings:
        try:
            return snapshot(self._source, now, pace=self.plan.pace, since=self._since)
        except (Unreachable, ValueError):
            return {}

    def _checkpoint(self, percent: int, now: float) -> None:
        self._record.snapshot(percent, self._signals(now))
        state = self.decision.action.name.lower().replace("_", " ")
        self._record.event("check", percent=percent, state=state, reasons=list(self.decision.reasons))
        self._say(f"{percent} %: {state}{''.join(f'; {reason}' for reason in self.decision.reasons)}")

    def _note_failures(self, step: str, probe: Probe) -> None:
        if probe.failures:
            self._record.event("precheck", step=f"tripwires: {step}", failures=probe.failures)
            self._say(f"tripwires: {'; '.join(probe.failures)}")

    def _end(self, stop: _Stop) -> Ending:
        """Traffic first, then everybody who is to know, then the wait for metrics as they were."""
        began = self._clock.time()
        is_done = self._traffic.end(stop.verdict, stop.reasons, stop.percent)
        if not is_done:
            self._say(
                "THE FLAG COULD NOT BE WRITTEN: the service goes on with the last percentage. When the database is "
                "back: manage.py canary abort; or start the service with MEMORY_CANARY_PCT=0 and an empty memory_flags"
            )
        self._record.event("decision", verdict=stop.verdict, reasons=stop.reasons, stage=self.stage)
        if stop.verdict == "rolled_back":
            taken = round(self._clock.time() - began, 2)
            self._record.event("rollback", percent=0, is_done=is_done, seconds=taken)
            self._alert(stop)
        self._record.snapshot(stop.percent, self._signals(self._clock.time()))
        baseline = self._wait_for_baseline(began) if stop.verdict == "rolled_back" and is_done else None
        self._tripwires.clear()
        self._record.decided(stop.verdict, stop.reasons, self.stage, self.rollout.began.timestamp())
        self._record.event("finished", verdict=stop.verdict, percent=stop.percent, seconds_to_baseline=baseline)
        return Ending(stop.verdict, stop.reasons, stop.percent, is_done, baseline)

    def _alert(self, stop: _Stop) -> None:
        why = "no Alertmanager was given"
        if self._alertmanager:
            why = send_alert(self._alertmanager, f"the canary was rolled back at {self.stage} %", stop.reasons)
        self._record.alerted(NAME, not why, why)
        if why:
            self._say(f"no alert was sent: {why}")

    def _wait_for_baseline(self, began: float) -> float | None:
        """Seconds until the new variant got nothing and no signal of the rest was beyond its limit, in two looks; None
        where that was not so within BASELINE_SECONDS."""
        quiet_from, quiet = self._clock.time(), 0
        while (now := self._clock.time()) - began < BASELINE_SECONDS:
            self._clock.sleep(min(self.plan.evaluate_seconds, 1.0))
            try:
                self._source.look(later := self._clock.time())
                window = self._source.window(now, later)
                new = window.increase("memory_requests_total", variant=NEW)
                read = measure(window, ("rls_denied", "contradictions", "request_error_rate"))
            except (Unreachable, ValueError):
                quiet = 0
                continue
            bad = [name for name, of in read.items() for whose, reading in of.items()
                   if whose != NEW and BY_NAME[name].is_beyond(BY_NAME[name].limit, reading)]  # fmt: skip
            quiet = quiet + 1 if not new and not bad else 0
            if quiet == 2:
                seconds = round(later - began, 2)
                self._say(f"the new variant gets nothing any more, {seconds} s after the decision")
                return seconds
        self._say(f"metrics were not back at the baseline {self._clock.time() - quiet_from:.0f} s after the rollback")
        return None
