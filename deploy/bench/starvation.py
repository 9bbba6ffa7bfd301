"""What others feel while one user attacks: `make bench-starvation`, or `python deploy/bench/starvation.py --json FILE`.

1. Start the whole service over a new data folder: one worker of 40 threads, rates off, chunks and models as they come.
2. Quiet: one bystander asks one query after the other over new connections, a probe calls /health/live beside him.
3. The same under each attack of deploy/bench/attacks.py, and while the attacker's row is locked by the superuser; the
   attacker is another process. Between two attacks, wait until the bystander is as quick as he was.
4. Fairness: ten users with one caller each in a closed loop of queries, alone, and beside one user with 40 callers, who
   comes back when he is told to.

Targets: no error of the bystander, his p95 below 4 times quiet and below 400 ms, every probe answered within 1 s, the
attacker served or told in order; the ten keep 80 % of their throughput. Progress on stderr.

Exit 0, or 1 with --strict where a target was missed, 2 on wrong usage.

Longer than 250 lines on purpose: what is measured, its targets and its table are read together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.attacker import Attack, locked_tenant, run, served_again, store_for, tenants  # noqa: E402
from deploy.bench.attacks import ATTACKS, BY_NAME  # noqa: E402
from deploy.bench.bystander import QUESTIONS, Bystander, remember  # noqa: E402
from deploy.bench.served import Served  # noqa: E402
from deploy.bench.wire import Answer, Request, ask, mint_tokens  # noqa: E402

THREADS = 40
RATIO_TARGET, P95_TARGET_MS, HEALTH_TARGET_MS, THROUGHPUT_TARGET = 4.0, 400.0, 1_000.0, 0.8
# The bystander's, and of the attacker's answers that are open when an attack ends.
TIMEOUT_SECONDS, PATIENCE_SECONDS = 30, 75
SETTLE_LIMIT_SECONDS, SETTLED_QUERIES = 90, 5
# For the attack to be under way before anything is measured.
LEAD_SECONDS = 0.5
FAIR_USERS, GREEDY_CALLERS = 10, 40
NOTE = Request("POST", "memory/index", {"doc_id": "note", "text": "The key lies under the mat."})
LOCKED = Attack("writers of a locked row", 24, lambda number: NOTE, (200, 201), lambda store: store(NOTE) and None)
CASES = {**BY_NAME, LOCKED.name: LOCKED}


def attack_for(name: str, port: int, token: str, seconds: float) -> list[Answer]:
    """In the attacker's process: every answer."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    return run(CASES[name], port, token, stop=stop, patience_seconds=PATIENCE_SECONDS)


def closed_loop(port: int, tokens: list[str], callers: int, seconds: float) -> int:
    """Queries answered 200 within `seconds`, of callers who share the tokens and come back when told."""
    until, answered, lock = time.monotonic() + seconds, Counter(), threading.Lock()

    def caller(number: int) -> None:
        while time.monotonic() < until:
            query = Request("POST", "memory/query", {"query": QUESTIONS[number % len(QUESTIONS)]})
            answer = ask(port, query, tokens[number % len(tokens)], timeout_seconds=TIMEOUT_SECONDS)
            with lock:
                answered[answer.status] += time.monotonic() < until
            if answer.status != 200:
                time.sleep(float(answer.retry_after or 1))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answered[200]


def percentile_ms(answers: Iterable[Answer], percent: int) -> float:
    """Of how long these took, the smallest that so many percent did not exceed."""
    laps = sorted(answer.seconds * 1_000 for answer in answers)
    return round(laps[min(len(laps) - 1, len(laps) * percent // 100)], 1)


def felt(watch: Bystander) -> dict:
    """What the bystander and the probe saw, in milliseconds and errors by what they were told."""
    return {
        "queries": len(watch.queries),
        "p50_ms": percentile_ms(watch.queries, 50),
        "p95_ms": percentile_ms(watch.queries, 95),
        "max_ms": percentile_ms(watch.queries, 100),
        "errors": dict(Counter(watch.errors)),
        "health_max_ms": percentile_ms(watch.probes, 100),
        "missed_probes": dict(Counter(watch.missed_probes)),
    }


class Bench:
    """One served worker, its bystander, and a process that attacks."""

    def __init__(self, served: Served, attackers: ProcessPoolExecutor, seconds: float):
        self.served, self.attackers, self.seconds = served, attackers, seconds
        self.port = served.port
        self.bystander = self.token("bystander")
        remember(self.port, self.bystander)
        self._prepared: set[str] = set()
        self.quiet: dict = {}

    def token(self, user: str) -> str:
        return mint_tokens(self.served.var, [user])[0]

    def measure_quiet(self) -> None:
        """Warm up, then what the bystander feels with nobody else there."""
        self._watch(lambda: time.sleep(1))
        self.quiet = felt(self._watch(lambda: time.sleep(self.seconds)))

    def measure(self, attack: Attack) -> dict:
        token = self.token(attack.attacker)
        with ExitStack() as held:
            superuser = held.enter_context(self.served.superuser("r1"))
            known = tenants(superuser)
            if attack.attacker not in self._prepared:
                store_for(attack, self.port, token)
                self._prepared.add(attack.attacker)
            self.settle()
            lock = ExitStack()
            if attack is LOCKED:
                [user_hash] = tenants(superuser) - known
                lock.enter_context(locked_tenant(superuser, user_hash))
            with lock:
                lasting = self.seconds + LEAD_SECONDS
                attacking = self.attackers.submit(attack_for, attack.name, self.port, token, lasting)
                time.sleep(LEAD_SECONDS)
                watch = self._watch(lambda: time.sleep(self.seconds))
        answers = attacking.result()
        again = served_again(self.port, token, within_seconds=PATIENCE_SECONDS)
        case = felt(watch) | {
            "attacker": dict(Counter(map(str, answers)).most_common()),
            "attacker_faults": dict(Counter(fault for answer in answers if (fault := attack.fault(answer)))),
            "attacker_served_again": again.status == 200,
        }
        case["ratio"] = round(case["p95_ms"] / self.quiet["p95_ms"], 2)
        case["missed"] = missed(case)
        return case

    def settle(self) -> None:
        """Wait until SETTLED_QUERIES in a row are no slower than in the quiet time, for a while at most."""
        deadline, quick = time.monotonic() + SETTLE_LIMIT_SECONDS, 0
        while quick < SETTLED_QUERIES and time.monotonic() < deadline:
            query = Request("POST", "memory/query", {"query": QUESTIONS[0]})
            answer = ask(self.port, query, self.bystander, timeout_seconds=TIMEOUT_SECONDS)
            is_quick = answer.status == 200 and answer.seconds * 1_000 <= 1.5 * self.quiet["p95_ms"]
            quick = quick + 1 if is_quick else 0
            time.sleep(0.05)

    def fairness(self, seconds: float) -> dict:
        """Queries a second of ten users, alone and beside one with 40 callers."""
        ten = [self.token(f"fair {number}") for number in range(FAIR_USERS)]
        greedy = self.token("greedy")
        for token in (*ten, greedy):
            remember(self.port, token)
        self.settle()
        closed_loop(self.port, ten, FAIR_USERS, 1)
        quiet = closed_loop(self.port, ten, FAIR_USERS, seconds) / seconds
        crowd = self.attackers.submit(closed_loop, self.port, [greedy], GREEDY_CALLERS, seconds + 2 * LEAD_SECONDS)
        time.sleep(LEAD_SECONDS)
        beside = closed_loop(self.port, ten, FAIR_USERS, seconds) / seconds
        case = {
            "quiet_per_second": round(quiet, 1),
            "beside_per_second": round(beside, 1),
            "greedy_per_second": round(crowd.result() / (seconds + 2 * LEAD_SECONDS), 1),
            "kept": round(beside / quiet, 3) if quiet else 0.0,
        }
        case["missed"] = [] if case["kept"] >= THROUGHPUT_TARGET else [f"kept below {THROUGHPUT_TARGET:.0%}"]
        return case

    def _watch(self, block: Callable[[], None]) -> Bystander:
        with Bystander(self.port, self.bystander, timeout_seconds=TIMEOUT_SECONDS) as watch:
            block()
        return watch


def missed(case: dict) -> list[str]:
    """The targets that this case missed, in words."""
    found = {
        "errors": bool(case["errors"]),
        f"p95 not below {RATIO_TARGET:.0f} x quiet": case["ratio"] >= RATIO_TARGET,
        f"p95 not below {P95_TARGET_MS:.0f} ms": case["p95_ms"] >= P95_TARGET_MS,
        "a probe unanswered": bool(case["missed_probes"]),
        f"health not below {HEALTH_TARGET_MS:.0f} ms": case["health_max_ms"] >= HEALTH_TARGET_MS,
        "the attacker was told otherwise": bool(case["attacker_faults"]),
        "the attacker is not served afterwards": not case["attacker_served_again"],
    }
    return [target for target, is_missed in found.items() if is_missed]


def measure(options) -> dict:
    cases = [CASES[name] for name in options.only] or [*ATTACKS[:-1], LOCKED, ATTACKS[-1]]
    os.environ["GUNICORN_THREADS"], os.environ["WEB_CONCURRENCY"] = str(THREADS), "1"
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as attackers,
        tempfile.TemporaryDirectory(prefix="r1-bench-") as folder,
        Served(Path(folder) / "var") as served,
    ):
        bench = Bench(served, attackers, options.seconds)
        bench.measure_quiet()
        report = {"load_1min": round(os.getloadavg()[0], 2), "quiet": bench.quiet, "attacks": {}}
        print(f"{'quiet':50}{line(bench.quiet)}", file=sys.stderr)
        if not options.only:
            report["fairness"] = bench.fairness(options.fair_seconds)
            print(f"fairness {report['fairness']}", file=sys.stderr)
        for attack in cases:
            case = report["attacks"][attack.name] = bench.measure(attack)
            print(f"{attack.name:50}{line(case)}", file=sys.stderr)
        report["load_1min_after"] = round(os.getloadavg()[0], 2)
    return report


COLUMNS = f"{'p50':>9}{'p95':>9}{'max':>9}{'ratio':>8}{'errors':>10}{'health':>9}  "


def line(case: dict) -> str:
    """One row below COLUMNS."""
    errors = f"{sum(case['errors'].values())}/{case['queries']}"
    attacker = ", ".join(f"{count} x {answer}" for answer, count in case.get("attacker", {}).items())
    return (
        f"{case['p50_ms']:>9.0f}{case['p95_ms']:>9.0f}{case['max_ms']:>9.0f}{case.get('ratio', 1):>8.1f}{errors:>10}"
        f"{case['health_max_ms']:>9.0f}  {'; '.join(case.get('missed', [])) or 'reached'}  ({attacker})"
    )


def table(report: dict) -> str:
    """Milliseconds of the bystander and of the probe, and how the targets fared."""
    rows = [f"{'':50}{COLUMNS}targets  (attacker)", f"{'quiet':50}{line(report['quiet'])}"]
    rows += [f"{name:50}{line(case)}" for name, case in report["attacks"].items()]
    if fairness := report.get("fairness"):
        rows.append(
            f"ten users beside one with {GREEDY_CALLERS} callers: {fairness['beside_per_second']} of"
            f" {fairness['quiet_per_second']} queries a second, {fairness['kept']:.0%} kept, the one had"
            f" {fairness['greedy_per_second']}  {'; '.join(fairness['missed']) or 'reached'}"
        )
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each attack; default %(default)s")
    parser.add_argument("--fair-seconds", type=float, default=15.0, help="of each half of the fairness run")
    parser.add_argument("--only", action="append", default=[], choices=CASES, metavar="ATTACK", help="repeatable")
    parser.add_argument("--list", action="store_true", help="print the attacks' names and do nothing")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a target was missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything measured to FILE")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CASES))
        return 0
    if min(options.seconds, options.fair_seconds) <= 0:
        parser.error("every number of seconds must be above 0")
    report = measure(options)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    cases = [*report["attacks"].values(), *filter(None, [report.get("fairness")])]
    return 1 if options.strict and any(case["missed"] for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main())
