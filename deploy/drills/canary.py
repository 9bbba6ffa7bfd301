"""Canary runs of a real service under traffic, with a fault in each but one: `make drill-canary`.

1. Start the service with two workers, a cross-encoder of random weights and the faults of canary_faults.py, and nginx
   with the configuration we ship in front of it. Of many users take some that the first 5 % hold, and some others.
2. Send queries and streams of both at a constant rate, through nginx.
3. Run `manage.py canary run` once a scenario, time scaled; FAULT_AFTER_SECONDS after the first stage has begun, the
   fault. Write its evidence and its page.

Prints a line a scenario: the verdict, and the seconds from the fault to the rollback. Exit 1 where a run ended
otherwise than it should, or its rollback came more than LATE_SECONDS after the window of its signal.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.served import Served  # noqa: E402
from deploy.bench.tiny_reranker import build  # noqa: E402
from deploy.bench.wire import mint_tokens  # noqa: E402
from deploy.drills.canary_faults import shim  # noqa: E402
from deploy.drills.canary_traffic import DrillTraffic  # noqa: E402
from deploy.drills.load import asked  # noqa: E402
from memory.rollout.evidence import read_evidence  # noqa: E402
from memory.rollout.report import write_report  # noqa: E402
from tests.faults.nginx import Nginx  # noqa: E402

SCALE, LATE_SECONDS, FAULT_AFTER_SECONDS = 30, 10.0, 12.0
NAMES, USERS, TESTERS = 240, 4, 5
DOCUMENTS = 8
RUN_LIMIT_SECONDS = 900


@dataclass(frozen=True)
class Scenario:
    """`fault` goes into the fault's file; `ahead` is there before the run. `windows`: of its signal, in WINDOW's."""

    fault: str
    verdict: str
    windows: float = 1.0
    ahead: str = ""


SCENARIOS = {
    "clean": Scenario("", "promoted"),
    "errors": Scenario("errors", "rolled_back"),
    "latency": Scenario("latency", "rolled_back", ahead="latency ahead"),
    "denial": Scenario("denial", "rolled_back", windows=0),
    "stream": Scenario("stream", "rolled_back", windows=2),
    "reranker": Scenario("reranker", "rolled_back"),
    "rubbish": Scenario("", "promoted"),
    "flood": Scenario("", "promoted"),
}


@dataclass
class Outcome:
    """One run; `seconds` from the fault to the rollback, None where there was none."""

    scenario: str
    verdict: str
    as_expected: bool
    seconds: float | None
    reasons: list[str]
    missing: list[str]
    load_1min: float
    evidence: str


class CanaryDrill:
    """The service, nginx and what runs against them."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.options, self.folder = options, folder
        self.fault_file = folder / "fault"
        settings = {
            "WEB_CONCURRENCY": "2",
            "MEMORY_CANARY_PCT": "5",
            "MEMORY_RATE_QUERY": "1200/min",
            "CROSS_ENCODER_MODEL": str(build(folder / "random-weights")),
            "PYTHONPATH": str(shim(folder / "shim")),
            "R1_DRILL_FAULT": str(self.fault_file),
        }
        self.served = Served(folder / "var", settings=settings)
        self.environment = {**self.served.environment, "DJANGO_SETTINGS_MODULE": "r1site.settings.dev"}

    def run(self, out: Path) -> Iterator[Outcome]:
        """An outcome a run, as it ends."""
        with self.served:
            nginx = Nginx(self.folder / "nginx", self.served.port)
            nginx.start()
            try:
                new, old, testers, bad = self._users(nginx.port)
                tokens = self.folder / "tokens"
                tokens.touch(0o600)
                tokens.write_text("\n".join(testers))
                options = self.options
                kinds = {
                    "queries, new": (options.rate, new, False),
                    "queries, old": (options.rate * 0.4, old, False),
                    "streams, new": (options.rate * 0.15, new, True),
                }
                with DrillTraffic(nginx.port, kinds, bad) as traffic:
                    for number, name in enumerate(options.only * options.repeat):
                        yield self._one(name, out / f"{number:02}-{name}", nginx.port, tokens, traffic)
                print(dict(sorted(traffic.statuses.items())), file=sys.stderr)
            finally:
                nginx.stop()

    def _users(self, port: int) -> tuple[list[str], list[str], list[str], str]:
        """Tokens: of users whom the first 5 % hold, of others, of the run's testers, and of the one who misbehaves."""
        tokens = mint_tokens(self.served.var, [f"drill-{number}" for number in range(NAMES)])
        new, old = [], []
        for token in tokens[TESTERS + 1 :]:
            status, answer = asked(port, token, "memory/query", {"query": "Who?"})
            if status != 200:
                raise SystemExit(f"a query was answered {status} before the drill: {answer}")
            (new if answer["variant"] == "r1" else old).append(token)
            if len(new) >= USERS and len(old) >= USERS:
                break
        if len(new) < USERS:
            raise SystemExit(f"of {NAMES} users only {len(new)} are among the first 5 %")
        for token in (*new[:USERS], *old[:USERS], *tokens[: TESTERS + 1]):
            documents = [
                {"doc_id": f"d{n}", "text": f"The heat pump number {n} was serviced in May {2000 + n}."}
                for n in range(DOCUMENTS)
            ]
            status, answer = asked(port, token, "memory/index", {"documents": documents})
            if status not in (200, 201):
                raise SystemExit(f"a document was answered {status} before the drill: {answer}")
        return new[:USERS], old[:USERS], tokens[:TESTERS], tokens[TESTERS]

    def _one(self, name: str, out: Path, port: int, tokens: Path, traffic: DrillTraffic) -> Outcome:
        scenario, window = SCENARIOS[name], self.options.window_seconds
        self._set_fault(scenario.ahead)
        print(f"{name}: began with load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        process = subprocess.Popen(self._command(out, port, tokens, name), cwd=ROOT, env=self.environment,
                                   stdout=subprocess.PIPE, stderr=sys.stderr, text=True)  # fmt: skip
        fault_at = None
        try:
            if self._wait_for(process, out, "stage"):
                time.sleep(FAULT_AFTER_SECONDS)
                traffic.is_rubbish, traffic.is_flood = name == "rubbish", name == "flood"
                if scenario.fault:
                    fault_at = time.time()
                    self._set_fault(scenario.fault)
            said, _ = process.communicate(timeout=RUN_LIMIT_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=60)
            traffic.is_rubbish = traffic.is_flood = False
            self._set_fault("")
        if not out.is_dir():
            return Outcome(name, "none", False, None, [f"no run: {said}"], [], os.getloadavg()[0], str(out))
        write_report(out)
        found = read_evidence(out)
        verdict = str(found.decision.get("verdict"))
        rollbacks = [event["at"] for event in found.events if event["kind"] == "rollback"]
        seconds = round(rollbacks[0] - fault_at, 1) if rollbacks and fault_at else None
        is_late = seconds is not None and seconds > scenario.windows * window + LATE_SECONDS
        # A rollback before the fault was of something else.
        is_early = seconds is not None and seconds < 0
        reasons = [str(reason) for reason in found.decision.get("reasons", [])]
        as_expected = verdict == scenario.verdict and not is_late and not is_early and not found.missing
        return Outcome(
            name, verdict, as_expected, seconds, reasons, found.missing, round(os.getloadavg()[0], 1), str(out)
        )

    def _command(self, out: Path, port: int, tokens: Path, name: str) -> list[str]:
        window = self.options.window_seconds
        # A fault's stage is long enough to be found in; a clean one as short as it can be judged in.
        stage = window * 4 if SCENARIOS[name].fault else window * 1.3
        return [
            sys.executable, "manage.py", "canary", "run", "--endpoint", f"http://127.0.0.1:{port}",
            "--metrics", f"http://127.0.0.1:{self.served.port}/metrics/memory", "--tokens-file", str(tokens),
            "--evidence", str(out), "--force", "a drill", "--time-scale", str(SCALE),
            "--check-seconds", str(300), "--stage-seconds", f"{stage * SCALE:.0f}", "--window-seconds", str(window),
        ]  # fmt: skip

    def _wait_for(self, process: subprocess.Popen[str], out: Path, kind: str) -> bool:
        """Whether an event of this kind was written before the run ended."""
        while process.poll() is None:
            if out.is_dir() and any(event.get("kind") == kind for event in read_evidence(out).events):
                return True
            time.sleep(0.2)
        return False

    def _set_fault(self, fault: str) -> None:
        beside = self.fault_file.with_suffix(".new")
        beside.write_text(fault)
        beside.replace(self.fault_file)


def table(outcomes: list[Outcome]) -> str:
    """A line a run."""
    lines = ["| scenario | verdict | seconds to the rollback | as expected | why |", "|---|---|---|---|---|"]
    for each in outcomes:
        seconds = "" if each.seconds is None else f"{each.seconds:.1f}"
        why = "; ".join(each.reasons) + (f"; not in its evidence: {', '.join(each.missing)}" if each.missing else "")
        lines.append(
            f"| {each.scenario} | {each.verdict} | {seconds} | {'yes' if each.as_expected else 'NO'} | {why} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=tuple(SCENARIOS), default=list(SCENARIOS), help="default all")
    parser.add_argument("--repeat", type=int, help="so many times; 10 without --only are ten clean runs")
    parser.add_argument("--rate", type=float, default=10.0, help="queries a second of the new variant (%(default)s)")
    parser.add_argument("--window-seconds", type=float, default=50.0, help="of the queries' signals (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "drill-canary", help="default var/drill-canary")
    options = parser.parse_args()
    if options.repeat and options.only == list(SCENARIOS):
        options.only = ["clean"]
    options.repeat = options.repeat or 1
    out: Path = options.out.absolute() / time.strftime("%Y%m%d-%H%M%S")
    out.mkdir(parents=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="r1-drill-") as folder:
        Path(folder).chmod(0o755)
        for outcome in CanaryDrill(Path(folder), options).run(out):
            outcomes.append(outcome)
            print(f"{outcome.scenario}: {outcome.verdict}, {outcome.seconds} s", file=sys.stderr)
            report: dict[str, Any] = {"window_seconds": options.window_seconds, "runs": [asdict(o) for o in outcomes]}
            (out / "drill.json").write_text(json.dumps(report, indent=2))
            (out / "drill.md").write_text(table(outcomes) + "\n")
    print(table(outcomes))
    return 0 if outcomes and all(outcome.as_expected for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
