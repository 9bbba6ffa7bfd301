"""Many memories, and requests that arrive at a constant rate: `make loadtest`.

1. Fill `--chunks` chunks, of users whose sizes follow Zipf's law, a hundredth as many; sealed for real through the
   service's own write path, all but the embedding model (deploy/bench/sealed_memories.py). What is there is kept and
   added to. Then VACUUM, and `maintain_indexes`.
2. The search transaction of a user of PROBE_CHUNKS chunks, the same at every size of the table. Both:
   deploy/bench/load_fill.py.
3. Start the whole service over it, with nginx before it where `--nginx` says so, the default number of workers, rates
   off.
4. `--rate` requests a second for `--seconds`, each timed from the moment that it was due (deploy/bench/arrivals.py):
   80 % queries, 15 % writes of one turn, 5 % others: lists of documents and counts. Who has more chunks asks more, by
   the square root. The generator runs beside the service on its cores.

Written into `--out`: <name>.json, and two plots, latency against time and by percentile. A table on stdout, progress on
stderr. Exit 1 where the rate did not hold: with an error, or past a limit of P95_MAX_MS.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.arrivals import Answered, Planned, http_get, http_request, run  # noqa: E402
from deploy.bench.chats import load_lines  # noqa: E402
from deploy.bench.database import percentiles  # noqa: E402
from deploy.bench.load_fill import VAR, fill  # noqa: E402
from deploy.bench.load_watch import Watch  # noqa: E402
from deploy.bench.plots import line_plot  # noqa: E402
from deploy.bench.proxy import Proxy  # noqa: E402
from deploy.bench.sealed_memories import THREAD_TURNS  # noqa: E402
from deploy.bench.served import Served  # noqa: E402
from deploy.bench.wire import mint_tokens  # noqa: E402

QUERY, INDEX, OTHER = "query", "index", "other"
SHARES = {QUERY: 0.80, INDEX: 0.15, OTHER: 0.05}
OTHER_PATHS = ("memory/documents?limit=20", "memory/stats")
P95_MAX_MS = {QUERY: 100.0, INDEX: 300.0}
WARM_SECONDS = 5.0
# Answers of one point of the plot against time.
BUCKET_SECONDS = 2.0


class Mixture:
    """Requests of every kind, in random order."""

    def __init__(self, tokens: list[str], sizes: list[int], turns: list[str], questions: list[str], seed: int):
        self._tokens, self._turns, self._questions = tokens, turns, questions
        # In proportion to their sizes the biggest would send an eighth of all: no user, but a job, and limited as such.
        self._weights = [size**0.5 for size in sizes]
        self._dice, self._written = random.Random(seed), 0
        self._run = f"{time.time():.0f}"

    def requests(self, count: int) -> list[Planned]:
        kinds = self._dice.choices(list(SHARES), list(SHARES.values()), k=count)
        users = self._dice.choices(range(len(self._tokens)), self._weights, k=count)
        return [getattr(self, f"_{kind}")(user) for kind, user in zip(kinds, users, strict=True)]

    def _query(self, user: int) -> Planned:
        return self._posted(QUERY, user, {"query": self._dice.choice(self._questions)})

    def _index(self, user: int) -> Planned:
        self._written += 1
        document = {
            "doc_id": f"{self._run}-{self._written}", "text": self._dice.choice(self._turns), "source": "chat",
            "thread_id": f"now-{self._written // THREAD_TURNS}",
        }  # fmt: skip
        return self._posted(INDEX, user, document)

    def _other(self, user: int) -> Planned:
        return Planned(OTHER, http_get(self._dice.choice(OTHER_PATHS), self._tokens[user]))

    def _posted(self, kind: str, user: int, body: dict) -> Planned:
        return Planned(kind, http_request(f"memory/{kind}", self._tokens[user], json.dumps(body).encode()))


def stages(answers: list[Answered], kind: str) -> dict[str, dict]:
    """By stage the percentiles of what the service says that it took, and of what the caller waited for."""
    found: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.kind == kind:
            found["waited"].append(answer.took_ms)
            if not answer.is_error:
                for stage, took_ms in json.loads(answer.body).get("took_ms", {}).items():
                    found[stage].append(took_ms)
    return {stage: percentiles(samples) for stage, samples in found.items() if samples}


def is_in_time(found: dict[str, dict]) -> bool:
    """Whether each kind of request of which there was one, by `stages`, kept to P95_MAX_MS."""
    return all(found[kind]["waited"]["p95"] <= most for kind, most in P95_MAX_MS.items() if found[kind])


def plots(name: str, answers: list[Answered]) -> dict[str, str]:
    """File name -> SVG."""
    against_time, by_percentile = {}, {}
    for kind in SHARES:
        of_kind = [answer for answer in answers if answer.kind == kind]
        if not of_kind:
            continue
        buckets: dict[int, list[float]] = defaultdict(list)
        for answer in of_kind:
            buckets[int(answer.due_seconds / BUCKET_SECONDS)].append(answer.took_ms)
        for quantile in (50, 95):
            against_time[f"{kind} p{quantile}"] = [
                (number * BUCKET_SECONDS, percentiles(samples)[f"p{quantile}"])
                for number, samples in sorted(buckets.items())
            ]
        ordered = sorted(answer.took_ms for answer in of_kind)
        by_percentile[kind] = [(at / 2, ordered[min(len(ordered) - 1, len(ordered) * at // 200)]) for at in range(201)]
    return {
        f"{name}-time.svg": line_plot(name, "seconds since the start", "ms", against_time, log_y=True),
        f"{name}-percentiles.svg": line_plot(name, "percentile", "ms", by_percentile, log_y=True),
    }


def serve(options: argparse.Namespace, users: list[str], sizes: list[int], turns: list[str], questions: list[str]):
    """(what came of the load, its answers): steps 3 and 4."""
    from memory.maintenance.progress import Progress

    progress = Progress(sys.stderr.write, is_terminal=sys.stderr.isatty())
    with ExitStack() as open_now:
        folder = Path(open_now.enter_context(tempfile.TemporaryDirectory(prefix="r1-load-")))
        settings = {}
        if options.reranker:
            from deploy.bench.tiny_reranker import build as build_reranker

            settings = {"CROSS_ENCODER_MODEL": str(build_reranker(folder / "reranker"))}
        served = open_now.enter_context(Served(VAR, settings=settings))
        proxy = open_now.enter_context(Proxy(folder / "nginx", served.port)) if options.nginx else None
        port = proxy.port if proxy else served.port
        mixture = Mixture(mint_tokens(served.var, users), sizes, turns, questions, seed=options.seed)
        run(port, options.rate / 2, mixture.requests(int(options.rate / 2 * WARM_SECONDS)))
        count = max(1, round(options.rate * options.seconds))
        requests = mixture.requests(count)
        progress("answers", 0, count)
        with Watch(served, proxy) as watch:
            answers = run(port, options.rate, requests, on_answer=lambda done: progress("answers", done, count))
        progress.end()
    errors = Counter(f"{answer.kind} {answer.status}" for answer in answers if answer.is_error)
    found = {kind: stages(answers, kind) for kind in SHARES}
    holds = not errors and is_in_time(found)
    report = {"rate": options.rate, "seconds": options.seconds, "holds": holds, "errors": dict(errors), "ms": found}
    if options.reranker:
        queries = [json.loads(answer.body) for answer in answers if answer.kind == QUERY and not answer.is_error]
        report["reranked"] = round(sum(answer["reranked"] for answer in queries) / max(1, len(queries)), 4)
    return report | watch.report(), answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=100_000, help="in the table (%(default)s)")
    parser.add_argument("--rate", type=float, default=50, help="requests a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="for how long (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of requests (%(default)s)")
    parser.add_argument("--texts", type=Path, help="a folder of chats (deploy/bench/chats.py); none: made-up words")
    parser.add_argument("--nginx", action="store_true", help="with nginx before the service, as shipped")
    parser.add_argument("--reranker", action="store_true", help="with a cross-encoder of TinyBERT's shape")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that fill (%(default)s)")
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--fill-only", action="store_true", help="steps 1 and 2")
    parser.add_argument("--out", type=Path, default=ROOT / "deploy" / "bench" / "loadtest", help="(%(default)s)")
    options = parser.parse_args()
    if min(options.chunks, options.rate, options.seconds) <= 0:
        parser.error("every number must be positive")
    turns, questions = load_lines(options.texts)
    filled, users, sizes = fill(options, turns, questions)
    if options.part:
        return 0
    name = f"{options.chunks}-chunks-{options.rate:g}-a-second"
    if options.fill_only:
        print(json.dumps(filled, indent=2))
        return 0
    loaded, answers = serve(options, users, sizes, turns, questions)
    options.out.mkdir(parents=True, exist_ok=True)
    report = {"filled": filled, "loaded": loaded}
    (options.out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    for file, svg in plots(name, answers).items():
        (options.out / file).write_text(svg)
    for kind, of_stage in loaded["ms"].items():
        for stage, at in of_stage.items():
            print(f"{kind:8}{stage:10}" + "".join(f"{key} {value:<10}" for key, value in at.items()))
    for key in ("errors", "cpu_cores", "pool_share_max", "reranked", "holds"):
        if key in loaded:
            print(f"{key:18}{loaded[key]}")
    return 0 if loaded["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
