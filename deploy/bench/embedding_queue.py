"""Who waits for whom at the embedding model: `make bench-queue`, or `python deploy/bench/embedding_queue.py --json`.

In process, with the real model and its queue, without database and HTTP.

1. Turn-sized writes (one passage of about 60 tokens, four a second, of eight users) beside an open loop of short
   questions of eight others, at each of the rates asked for: milliseconds from when it was due to the vector.
2. Ten users with one caller each, who ask again as soon as they are answered: first alone, then beside one user with
   40 such callers, in turns: questions a second of the ten, and what they keep of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "bench")]
from database import percentiles  # noqa: E402
from query import QUESTIONS  # noqa: E402

ASKING_USERS = WRITING_USERS = 8
WRITES_A_SECOND = 4.0
TURN = (
    "On Tuesday I told the plumber that the kitchen tap drips again, and he promised to come by next Thursday "
    "morning before nine; the spare key is with Mrs Lindqvist on the second floor, who is at home until noon, "
    "and the bill goes to the landlord as it did last time."
)
SINGLE_CALLERS = 10
GREEDY_CALLERS = 40


def open_loop(embedder, queries_a_second: float, seconds: float) -> dict:
    """Percentiles in milliseconds of the writes and of the questions they were beside."""
    draw = random.Random(7)
    due, at = [], 0.0
    while (at := at + draw.expovariate(queries_a_second)) < seconds:
        due.append((at, "query"))
    due += [(number / WRITES_A_SECOND, "write") for number in range(int(seconds * WRITES_A_SECOND))]
    took_ms: dict[str, list[float]] = {"query": [], "write": []}

    def one(kind: str, number: int, due_at: float) -> None:
        if kind == "query":
            embedder.embed_query(QUESTIONS[number % len(QUESTIONS)], user=f"asks {number % ASKING_USERS}")
        else:
            embedder.embed_passages([f"{number} {TURN}"], user=f"writes {number % WRITING_USERS}")
        took_ms[kind].append((time.perf_counter() - due_at) * 1000)

    with ThreadPoolExecutor(256) as pool:
        started = time.perf_counter()
        calls = []
        numbers = {"query": count(), "write": count()}
        for at, kind in sorted(due):
            time.sleep(max(0.0, started + at - time.perf_counter()))
            calls.append(pool.submit(one, kind, next(numbers[kind]), started + at))
        for call in calls:
            call.result()
    return {kind: percentiles(found) for kind, found in took_ms.items()}


def closed_loop(embedder, seconds: float, greedy_callers: int) -> dict[str, float]:
    """Questions a second of the ten together, and of the one user beside them."""
    until = time.perf_counter() + seconds
    answered = {"ten": 0, "greedy": 0}
    counting = threading.Lock()

    def caller(who: str, number: int) -> None:
        user = "greedy" if who == "greedy" else f"single {number}"
        while time.perf_counter() < until:
            embedder.embed_query(QUESTIONS[number % len(QUESTIONS)], user=user)
            with counting:
                answered[who] += 1

    with ThreadPoolExecutor(SINGLE_CALLERS + greedy_callers) as pool:
        calls = [pool.submit(caller, "ten", n) for n in range(SINGLE_CALLERS)]
        calls += [pool.submit(caller, "greedy", n) for n in range(greedy_callers)]
        for call in calls:
            call.result()
    return {who: number / seconds for who, number in answered.items()}


def measure(rates: list[float], seconds: float, rounds: int) -> dict:
    from memory.embedding.embedder import Embedder

    embedder = Embedder()
    for _ in range(20):
        embedder.embed_query(QUESTIONS[0])
        embedder.embed_passages([TURN])
    beside = {rate: open_loop(embedder, rate, seconds) for rate in rates}
    quiet, crowded = [], []
    for _ in range(rounds):
        quiet.append(closed_loop(embedder, seconds / rounds, 0)["ten"])
        crowded.append(closed_loop(embedder, seconds / rounds, GREEDY_CALLERS))
    model = embedder.load()
    prepared = {"question": model.prepared("query", QUESTIONS[0]), "write": model.prepared("passage", TURN)}
    tokens = {name: model.cost_tokens(text) for name, text in prepared.items()}
    embedder.close()
    ten = sum(each["ten"] for each in crowded) / rounds
    alone = sum(quiet) / rounds
    return {
        "tokens": tokens,
        "load_1min": round(os.getloadavg()[0], 2),
        "beside_queries_ms": beside,
        "ten_users_a_second": {
            "quiet": round(alone, 1),
            "beside_40_callers": round(ten, 1),
            "kept": round(ten / alone, 3),
            "the_40_callers": round(sum(each["greedy"] for each in crowded) / rounds, 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[60, 80], help="questions a second")
    parser.add_argument("--seconds", type=float, default=30, help="of each case; default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="of quiet and crowded; default %(default)s")
    parser.add_argument("--json", action="store_true", help="only the JSON document")
    options = parser.parse_args()
    if min(options.rates) <= 0 or options.seconds <= 0 or options.rounds < 1:
        parser.error("rates, seconds and rounds must be positive")
    result = measure(options.rates, options.seconds, options.rounds)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
