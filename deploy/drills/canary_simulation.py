"""Hours of noise and of faults, judged by the canary's own decision: false rollbacks, and how soon a fault is seen.

    make simulate-canary                       10,000 hours, 200 faults of each kind at each load
    make simulate-canary ARGS="--hours 1000 --seed 2"

Requests arrive by chance at three loads of the new variant: the one at which a half of the window has barely its
minimum of queries, a usual one and a high one. Noise is what a healthy service shows: failures of one request in 2,000,
latencies whose p95 stands at two thirds of the limit, and every hour a spike of 5 to 20 s in which 2 % fail and 20 %
are slow. A fault begins at a random moment and lasts. Every 5 seconds `memory.rollout.decision.decide` is asked; only
where no signal can be beyond its limit in both evaluations is it left out. A percentile is known by the share beyond
the limit, where the histograms have a bound: p95 is over it when more than 5 % are.

Exit 1 where there was more than one false rollback in 10,000 hours, or a fault was seen later than 10 s after its
window: of 100 at a usual load more than 5, or any at a high one. Two in a hundred are close to the limit of one, and a
usual load has some hundred requests in a half: chance alone keeps some of those halves under it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
from memory.rollout.decision import ALL, BY_NAME, NEW, SIGNALS, Action, Reading, decide  # noqa: E402

STEP_SECONDS = 5
# Queries a second of the new variant.
LOADS = {"barely enough": 2.1, "usual": 5.0, "high": 50.0}
SPIKE_SECONDS = (5, 20)
SPIKES_AN_HOUR = 1.0
LATE_SECONDS = 10
FALSE_ROLLBACKS_MAX = 1
P95 = 0.05


@dataclass(frozen=True)
class Noise:
    """Of one signal: how many there are for each query, the share of bad ones, in a spike and under its fault.

    Bad is failed, or beyond the limit of a percentile.
    """

    signal: str
    a_query: float
    usual: float
    spike: float
    fault: float
    says: str


NOISE = (
    Noise("query_error_rate", 1.0, 0.0005, 0.02, 0.02, "2 % of queries fail"),
    Noise("request_error_rate", 1.5, 0.0005, 0.02, 0.02, "2 % of all requests fail"),
    Noise("query_p95_ms", 1.0, 0.004, 0.20, 0.12, "latency doubled"),
    Noise("first_token_p95_ms", 0.3, 0.001, 0.20, 0.12, "first token doubled"),
    Noise("stream_success", 0.7, 0.0002, 0.01, 0.02, "2 % of streams fail"),
    Noise("auth_p95_ms", 1.5, 0.001, 0.20, 0.12, "tokens verified slowly"),
    Noise("rerank_p95_ms", 1.0, 0.004, 0.20, 0.12, "slow reranker"),
)
DENIAL = "one denial by row-level security"


class Course:
    """What happened step by step: of each signal how many there were and how many were bad."""

    def __init__(self, dice: np.random.Generator, steps: int, load: float, fault: str = "", fault_at: int = 0):
        spikes = _spikes(dice, steps)
        self._counts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for noise in NOISE:
            share = np.where(spikes, noise.spike, noise.usual)
            if noise.signal == fault:
                share[fault_at:] = noise.fault
            n = dice.poisson(load * noise.a_query * STEP_SECONDS, steps)
            # Of a count that came by chance, the bad ones come so too.
            self._counts[noise.signal] = _sums(n), _sums(dice.binomial(n, share))
        denied = np.zeros(steps, dtype=np.int64)
        if fault == DENIAL:
            denied[fault_at] = 1
        self._denied = _sums(denied)
        self.steps = steps

    def rolls_back(self) -> Iterator[int]:
        """The steps at whose end `decide` rolls back, one after the other."""
        suspects = np.zeros(self.steps, dtype=bool)
        for noise in NOISE:
            suspects |= self._may_be_beyond(noise.signal)
        half = _half("rls_denied")
        suspects[2 * half :] |= (self._denied[2 * half + 1 :] - self._denied[1 : -2 * half]) > 0
        return (int(step) for step in np.flatnonzero(suspects) if self._decides(step))

    def _may_be_beyond(self, name: str) -> np.ndarray:
        """Where both halves have more bad ones than the limit allows; fewer than that roll nothing back."""
        n, bad = self._counts[name]
        half, allowed = _half(name), _allowed(name)
        beyond = np.zeros(self.steps, dtype=bool)
        if self.steps > 2 * half:
            grown_n, grown_bad = n[half:] - n[:-half], bad[half:] - bad[:-half]
            over = grown_bad > allowed * grown_n * 0.999
            beyond[2 * half - 1 :] = over[half:] & over[:-half] & (grown_bad[half:] > 0)
        return beyond

    def _decides(self, step: int) -> bool:
        evaluations = []
        for back in (1, 0):
            read = {
                noise.signal: {
                    NEW if BY_NAME[noise.signal].scope == "variant" else ALL: self._reading(noise.signal, step, back)
                }
                for noise in NOISE
            }
            denied = self._between(self._denied, _half("rls_denied"), step, back)
            evaluations.append({**read, "rls_denied": {ALL: Reading(float(denied), 1)}})
        return decide(evaluations).action == Action.ROLL_BACK

    def _reading(self, name: str, step: int, back: int) -> Reading:
        n, bad = (self._between(sums, _half(name), step, back) for sums in self._counts[name])
        signal = BY_NAME[name]
        if not n:
            return Reading(None, 0)
        if signal.unit == "share":
            return Reading(1 - bad / n if signal.is_floor else bad / n, n)
        return Reading(signal.limit * (1.01 if bad > P95 * n else 0.5), n)

    @staticmethod
    def _between(sums: np.ndarray, half: int, step: int, back: int) -> int:
        end = step + 1 - back * half
        return int(sums[max(0, end)] - sums[max(0, end - half)])


def _half(name: str) -> int:
    return round(BY_NAME[name].window_seconds / 2 / STEP_SECONDS)


def _allowed(name: str) -> float:
    signal = BY_NAME[name]
    if signal.unit != "share":
        return P95
    return 1 - signal.limit if signal.is_floor else signal.limit


def _sums(counts: np.ndarray) -> np.ndarray:
    """Sums up to each step, with 0 before the first."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _spikes(dice: np.random.Generator, steps: int) -> np.ndarray:
    spikes = np.zeros(steps, dtype=bool)
    count = dice.poisson(steps * STEP_SECONDS / 3600 * SPIKES_AN_HOUR)
    shortest, longest = (seconds // STEP_SECONDS for seconds in SPIKE_SECONDS)
    for begin in dice.integers(0, steps, count):
        spikes[begin : begin + dice.integers(shortest, longest + 1)] = True
    return spikes


def false_rollbacks(dice: np.random.Generator, hours: float, load: float) -> int:
    """In so many hours without a fault; what follows within a window is the same one."""
    longest = round(max(signal.window_seconds for signal in SIGNALS) / STEP_SECONDS)
    found, piece_hours = 0, 500.0
    while hours > 0:
        course = Course(dice, round(min(hours, piece_hours) * 3600 / STEP_SECONDS), load)
        steps = list(course.rolls_back())
        found += int(len(steps) and 1 + np.count_nonzero(np.diff(steps) > longest))
        hours -= piece_hours
    return found


def detection_seconds(dice: np.random.Generator, fault: str, load: float) -> float:
    """From a fault's beginning to the rollback; infinite where four windows did not see it."""
    window = BY_NAME["rls_denied" if fault == DENIAL else fault].window_seconds
    before = round(2 * max(signal.window_seconds for signal in SIGNALS) / STEP_SECONDS)
    course = Course(dice, before + round(4 * window / STEP_SECONDS), load, fault, before)
    seen = next((step for step in course.rolls_back() if step >= before), None)
    return float("inf") if seen is None else float((seen - before + 1) * STEP_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=10_000)
    parser.add_argument("--faults", type=int, default=200, help="of each kind at each load")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = np.random.default_rng(options.seed)
    false, late = 0, []
    print("| load | queries a second | hours of noise | false rollbacks |\n|---|---|---|---|")
    for name, load in LOADS.items():
        hours = options.hours / len(LOADS)
        found = false_rollbacks(dice, hours, load)
        false += found
        print(f"| {name} | {load:g} | {hours:,.0f} | {found} |", flush=True)
    print("\n| fault | window | load | seen | p50 | p95 | slowest |\n|---|---|---|---|---|---|---|")
    for fault, says in [*((noise.signal, noise.says) for noise in NOISE), (DENIAL, DENIAL)]:
        window = BY_NAME["rls_denied" if fault == DENIAL else fault].window_seconds
        for name, load in LOADS.items():
            seconds = np.array([detection_seconds(dice, fault, load) for _ in range(options.faults)])
            seen = seconds[np.isfinite(seconds)]
            p50, p95, slowest = (np.percentile(seen, q) for q in (50, 95, 100)) if len(seen) else [float("nan")] * 3
            part = f"{len(seen)} of {options.faults}"
            print(
                f"| {says} | {window:g} s | {name} | {part} | {p50:.0f} s | {p95:.0f} s | {slowest:.0f} s |", flush=True
            )
            latest = {"usual": p95, "high": slowest}.get(name, 0)
            if len(seen) < len(seconds) or latest > window + LATE_SECONDS:
                late.append(f"{says} at {name} load")
    if false > FALSE_ROLLBACKS_MAX * max(1.0, options.hours / 10_000) or late:
        sys.exit(f"FAILED: {false} false rollbacks; seen late: {', '.join(late) or 'none'}")


if __name__ == "__main__":
    main()
