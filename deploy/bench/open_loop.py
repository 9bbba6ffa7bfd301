"""Queries and writes that arrive at a constant rate: `make bench-open-loop`.

1. Start the whole service over a new data folder, with the default number of workers and rates off; store `--turns`
   turns of each of `--users` users.
2. `--rate` requests a second for `--seconds`: 85 % queries, 15 % writes of one turn, each of a random user, each timed
   from the moment that it was due (deploy/bench/arrivals.py). The generator runs beside the service on its cores.
3. Search for the highest rate that holds for `--search-seconds`: upwards by a quarter, then by halves to 4 %. A rate
   holds with no error, a query p95 of at most 100 ms and a write p95 of at most 300 ms.

With `--reranker` the service has a cross-encoder of TinyBERT's shape with random weights; the share of queries that it
ordered is printed too. Progress on stderr. Exit 1 where `--rate` did not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.arrivals import Answered, Planned, http_request, run  # noqa: E402
from deploy.bench.chats import load_lines  # noqa: E402
from deploy.bench.database import percentiles  # noqa: E402
from deploy.bench.served import Served  # noqa: E402
from deploy.bench.wire import mint_tokens  # noqa: E402

QUERY, INDEX = "query", "index"
WRITES_SHARE = 0.15
P95_MAX_MS = {QUERY: 100.0, INDEX: 300.0}
STEP_UP, FINE_ENOUGH = 1.25, 1.04
# In the search, a rate with so many errors is not held to its end.
ERRORS_MAX = 20
WARM_SECONDS = 5.0


@dataclass(frozen=True)
class Trial:
    """What came of one rate."""

    rate: float
    seconds: float
    answers: list[Answered]
    # Of one core, by the generator.
    generator_share: float

    def percentiles(self, kind: str) -> dict:
        return percentiles([answer.took_ms for answer in self.answers if answer.kind == kind])

    @property
    def errors(self) -> dict[str, int]:
        return dict(Counter(str(answer.status) for answer in self.answers if answer.is_error))

    @property
    def reranked(self) -> float:
        """The share of queries that the reranker ordered."""
        queries = [answer for answer in self.answers if answer.kind == QUERY and not answer.is_error]
        return sum(json.loads(answer.body)["reranked"] for answer in queries) / max(1, len(queries))

    @property
    def holds(self) -> bool:
        return not self.errors and all(self.percentiles(kind)["p95"] <= most for kind, most in P95_MAX_MS.items())

    def report(self, *, with_reranker: bool) -> dict:
        found = {"rate": round(self.rate, 1), "seconds": self.seconds, "holds": self.holds, "errors": self.errors}
        found |= {kind: self.percentiles(kind) for kind in P95_MAX_MS}
        if with_reranker:
            found["reranked"] = round(self.reranked, 4)
        return found | {"generator_share": round(self.generator_share, 2)}


class Load:
    """The mixture of requests, at the rates that it is asked for."""

    def __init__(self, port: int, tokens: list[str], turns: list[str], questions: list[str], seed: int):
        self._port, self._tokens, self._turns, self._questions = port, tokens, turns, questions
        self._dice, self._written = random.Random(seed), 0

    def trial(self, rate: float, seconds: float, *, errors_max: int | None = None) -> Trial:
        requests = [self._request() for _ in range(max(2, round(rate * seconds)))]
        cpu, started = time.process_time(), time.perf_counter()
        answers = run(self._port, rate, requests, errors_max=errors_max)
        share = (time.process_time() - cpu) / (time.perf_counter() - started)
        return Trial(rate, seconds, answers, share)

    def store(self, turns_each: int) -> None:
        """`turns_each` turns for every user, one call each, one call after the other."""
        for token in self._tokens:
            documents = [self._document() for _ in range(turns_each)]
            [answer] = run(self._port, 1, [self._planned(INDEX, token, {"documents": documents})])
            if answer.is_error:
                raise SystemExit(f"storing was answered {answer.status}: {answer.body[:300]!r}")

    def _request(self) -> Planned:
        token = self._dice.choice(self._tokens)
        if self._dice.random() < WRITES_SHARE:
            return self._planned(INDEX, token, self._document())
        return self._planned(QUERY, token, {"query": self._dice.choice(self._questions)})

    def _document(self) -> dict:
        self._written += 1
        return {"doc_id": f"turn-{self._written}", "text": self._dice.choice(self._turns)}

    def _planned(self, kind: str, token: str, body: dict) -> Planned:
        return Planned(kind, http_request(f"memory/{kind}", token, json.dumps(body).encode()))


def searched(load: Load, start: float, seconds: float) -> Iterator[Trial]:
    """Every trial of the search, in order."""
    holds, fails = 0.0, float("inf")
    rate = start
    while fails / max(holds, 1.0) > FINE_ENOUGH:
        trial = load.trial(rate, seconds, errors_max=ERRORS_MAX)
        yield trial
        holds, fails = (max(holds, rate), fails) if trial.holds else (holds, min(fails, rate))
        if fails == float("inf"):
            rate = holds * STEP_UP
        elif holds == 0.0:
            rate = fails / STEP_UP
        else:
            rate = (holds + fails) / 2


def measure(options: argparse.Namespace) -> dict:
    turns, questions = load_lines(options.texts)
    with tempfile.TemporaryDirectory(prefix="r1-bench-") as folder:
        settings = {}
        if options.reranker:
            from deploy.bench.tiny_reranker import build

            settings = {"CROSS_ENCODER_MODEL": str(build(Path(folder) / "reranker"))}
        with Served(Path(folder) / "var", settings=settings) as served:
            tokens = mint_tokens(served.var, [f"user-{number}" for number in range(options.users)])
            load = Load(served.port, tokens, turns, questions, seed=1)
            load.store(options.turns)
            load.trial(options.rate / 2, WARM_SECONDS)
            print(f"{options.users} users of {options.turns} turns", file=sys.stderr)
            asked = load.trial(options.rate, options.seconds)
            report = {"asked": asked.report(with_reranker=options.reranker)}
            print(f"asked: {report['asked']}", file=sys.stderr)
            if options.search_seconds:
                trials = []
                for trial in searched(load, options.rate, options.search_seconds):
                    trials.append(trial.report(with_reranker=options.reranker))
                    print(f"search: {trials[-1]}", file=sys.stderr)
                held = [trial for trial in trials if trial["holds"]]
                report["highest"] = max(held, key=lambda trial: trial["rate"], default=None)
                report["search"] = trials
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=100, help="requests a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="for how long (%(default)s)")
    parser.add_argument(
        "--search-seconds", type=float, default=20, help="each rate of the search; 0: no search (%(default)s)"
    )
    parser.add_argument("--users", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--turns", type=int, default=20, help="of each user, stored before (%(default)s)")
    parser.add_argument("--texts", type=Path, help="a folder of chats (deploy/bench/chats.py); none: made-up words")
    parser.add_argument("--reranker", action="store_true", help="with a cross-encoder of TinyBERT's shape")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    options = parser.parse_args()
    if min(options.rate, options.seconds, options.users, options.turns) <= 0 or options.search_seconds < 0:
        parser.error("every number must be positive")
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name in ("asked", "highest"):
            for key, value in (report.get(name) or {}).items():
                print(f"{name:10}{key:18}{value}")
    return 0 if report["asked"]["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
