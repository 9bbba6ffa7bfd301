"""What threads cost a search: `make bench-context`, or `python deploy/bench/context_search.py --json`.

1. Start an embedded, durable PostgreSQL of its own; load one user a size: turns of real chats or made-up words, sealed
   for real, in threads of 20. What an earlier run loaded is kept.
2. Time the search transaction of each user's questions, both legs, without a filter: with context and without, question
   by question in turn.

`--checkout` times another version of the service with this same file, over a database of its own, as far back as a
search knew of threads. Progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE)]
from deploy.bench.chats import load_lines  # noqa: E402
from deploy.bench.database import machine, percentiles, service  # noqa: E402
from deploy.bench.own_index import CANDIDATES, Asker  # noqa: E402
from deploy.bench.sealed_memories import Pool, fill_user, vacuum  # noqa: E402

SIZES = "20,2000,20000"
THREAD_TURNS = 20
WARM_UP = 10


def timed_ms(asker: Asker, questions: list[str]) -> dict:
    """Percentiles of the transaction in milliseconds, with context on and off."""
    from memory.lexical.bm25 import lexical_query
    from memory.retrieval.search import Filters, Search  # as it was named where the search is older
    from memory.rls import tenant_transaction

    profile = asker.profile()
    samples: dict[bool, list[float]] = {False: [], True: []}
    warm_up = min(WARM_UP, len(questions))
    for lap in range(warm_up + len(questions)):
        number = lap % len(questions)
        vector, lexical = asker.vector(number), lexical_query(profile.search_key, questions[number], "english")
        for context in (False, True) if lap % 2 else (True, False):
            started = time.perf_counter()
            with tenant_transaction(asker.user_hash) as tx:
                search = Search(tx, profile.space, vector, CANDIDATES, Filters(), lexical, context=context)
                tx.state()
                found = search.candidates()
                search.quarantined()
            if not found:
                raise SystemExit(f"{asker.user_id} found nothing: there is nothing to measure")
            if lap >= warm_up:
                samples[context].append((time.perf_counter() - started) * 1000)
    return {"context off": percentiles(samples[False]), "context on": percentiles(samples[True])}


def measure(options: argparse.Namespace) -> dict:
    turns, questions = load_lines(options.texts)
    with service(options.checkout / "var" / "bench-context") as connections:
        pool = Pool(turns, HERE / "var" / f"pool-{options.texts.name if options.texts else 'made-up'}.npy")
        sizes = [int(size) for size in options.sizes.split(",")]
        for size in sizes:
            fill_user(pool, f"context-{size}", size, turns_share=1.0, thread_turns=THREAD_TURNS)
            print(f"{size} turns", file=sys.stderr)
        vacuum(connections)
        report = {"machine": machine(connections)}
        for size in sizes:
            asked = questions[: options.questions]
            report[f"{size} turns"] = timed_ms(Asker(f"context-{size}", pool, asked), asked)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default=SIZES, help="turns of each user, with commas (%(default)s)")
    parser.add_argument("--questions", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--texts", type=Path, help="a folder of chats (deploy/bench/chats.py); none: made-up words")
    parser.add_argument("--checkout", type=Path, default=HERE, help="another version of the service (this one)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    options = parser.parse_args()
    if options.questions < 1 or not all(part.isdigit() for part in options.sizes.split(",")):
        parser.error("every number must be positive")
    options.checkout = options.checkout.resolve()
    # `memory` and `r1site` are the other version's, `deploy.bench` is this one's: it is imported already.
    sys.path.insert(0, str(options.checkout))
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for key, value in report.items():
            print(f"{key:14}{json.dumps(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
