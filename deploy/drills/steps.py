"""Commands beside a service under load: step by step, killed in the middle, what went wrong kept."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deploy.bench.served import ROOT, Served
from deploy.drills.load import Load

STEP_LIMIT_SECONDS = 3600
# What was sent to an instance is answered, and what its workers report has come.
DRAIN_SECONDS = 6.0


class Steps:
    """`served` is the instance that has the load, `environment` what commands run in: with its settings.

    `failures` are the sentences of what was not as it should be.
    """

    def __init__(self, served: Served):
        self.served = served
        self.failures: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return {**self.served.environment, "DJANGO_SETTINGS_MODULE": "r1site.settings.dev"}

    def hand_over(self, load: Load, next_one: Served) -> None:
        """Start another instance of the service, let it have the load, and stop the one before."""
        next_one.__enter__()
        former, self.served = self.served, next_one
        load.port = next_one.port
        time.sleep(DRAIN_SECONDS)
        former.__exit__(None, None, None)

    def requests(self, load: Load) -> dict[str, Any]:
        """What became of the load; a request that failed is a failure of the drill."""
        self.expect(not load.failed, f"{load.failed} requests failed: {load.errors}")
        return {"requests": load.report(), "load_average": os.getloadavg()[0]}

    def expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            self.failures.append(what)
            print(f"FAILED: {what}", file=sys.stderr)

    def step(self, *arguments: str, command: str = "rotate_keys") -> tuple[int, dict[str, Any], float]:
        """(exit code, what it said, seconds)"""
        started = time.monotonic()
        process = self._start(command, *arguments)
        out, err = process.communicate(timeout=STEP_LIMIT_SECONDS)
        seconds = time.monotonic() - started
        print(f"  {command} {' '.join(arguments)}: {process.returncode} {out or err}".rstrip(), file=sys.stderr)
        return process.returncode, json.loads(out) if out else {"refused": err}, seconds

    def run(self, settings: dict[str, str], *command: str) -> None:
        """A command that has to succeed, with these settings beside the service's."""
        subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, env=self.environment | settings, check=True,
                       stdout=sys.stderr)  # fmt: skip

    def killed_at_half(self, done: str, all_of_it: str, *arguments: str, command: str = "rotate_keys") -> float:
        """How much of its work a step had done, 0 to 1, when it was killed. `done`, `all_of_it`: SQL that counts."""
        with self.served.superuser("r1") as superuser:
            [total] = superuser.execute(all_of_it).fetchone()
            [before] = superuser.execute(done).fetchone()
            process = self._start(command, *arguments)
            while process.poll() is None:
                looked_at = time.monotonic()
                [now] = superuser.execute(done).fetchone()
                if now - before >= (total - before) / 2:
                    process.kill()
                    break
                # Counting takes processor time that is the service's: a tenth of one processor at most.
                time.sleep(max(0.01, 9 * (time.monotonic() - looked_at)))
            process.communicate()
            [now] = superuser.execute(done).fetchone()
        share = float((now - before) / max(1, total - before))
        print(f"  killed with {share:.0%} done", file=sys.stderr)
        self.expect(0.0 < share < 1.0, f"{command} ended before it could be killed: give it more to do")
        return share

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def load_options(parser: argparse.ArgumentParser) -> None:
    """What every drill under load may be told of that."""
    parser.add_argument("--reads", type=float, default=20, help="a second (%(default)s)")
    parser.add_argument("--writes", type=float, default=5, help="a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="of load alone, before and after (%(default)s)")


def reported(run: Callable[[Path], dict[str, Any]]) -> int:
    """Run a drill in a folder of its own and print its report; 1 where that names failures."""
    with tempfile.TemporaryDirectory(prefix="r1-drill-") as folder:
        Path(folder).chmod(0o755)
        report = run(Path(folder))
    print(json.dumps(report, indent=2))
    return 1 if report["failures"] else 0
