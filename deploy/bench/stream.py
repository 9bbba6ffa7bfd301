"""Streams under load: `make bench-stream`, or `python deploy/bench/stream.py --json`.

1. Start the whole service over a new data folder, with the default number of workers and rates off; remember
   documents of 1 to 4 chunks for some users.
2. Run the streams, so many at a time: short and long messages, 1 to 10 passages, memory on but for one in ten, the
   built-in answerer. One in eight reads 256 bytes every 50 ms once it has its first token.
3. Beside them ask memory queries, one after the other on each of two connections.
4. All the while the database's superuser counts sessions of the service that are idle in a transaction.

A stream is complete when it has its citations, at least one token and `done`, with ids counting up from 1. The first
token is timed from before the connection is made to the arrival of the first `event: token`. Progress on stderr.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "bench")]
from database import percentiles  # noqa: E402
from served import Served  # noqa: E402

COMPLETE_TARGET = 0.996
FIRST_TOKEN_P95_TARGET_MS = 1500
QUERY_THREADS = 2
SLOW_ONE_IN, PLAIN_ONE_IN = 8, 10
SLOW_READ_BYTES, SLOW_PAUSE_SECONDS = 256, 0.05
SAMPLE_SECONDS = 0.02
# Between two statements of one transaction there is always a moment: this long is no moment.
LINGERING_MS = 100

TOPICS = {
    "heating": "The heat pump was serviced in {month}. Its filter is changed every {n} months. It has {n} bar.",
    "boat": "The boat lies in harbour {n}. Its engine was overhauled in {month}. The sails are stored in shed {n}.",
    "garden": "The pear tree was pruned in {month}. Row {n} holds beans. The well is {n} metres deep.",
    "books": "Book {n} was lent to Anna in {month}. Shelf {n} holds the atlases. The oldest one is from 18{n:02}.",
}
MONTHS = ("January", "March", "May", "July", "September", "November")
QUESTIONS = (
    "When was the heat pump serviced?",
    "Which harbour does the boat lie in, and when was its engine overhauled?",
    "How deep is the well?",
    "Who has book 7, and since which month? Please answer with the month and the shelf if it is known. " * 4,
)


@dataclass
class Outcome:
    """One stream as its reader saw it."""

    problem: str | None
    first_token_ms: float | None
    total_ms: float
    tokens: int = 0
    is_slow: bool = False
    memory_ms: dict[str, float] | None = None


def post(connection: http.client.HTTPConnection, path: str, token: str, body: dict) -> http.client.HTTPResponse:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", f"/api/v1/{path}", json.dumps(body), headers)
    return connection.getresponse()


def load(served: Served, tokens: list[str], rng: random.Random) -> int:
    """Documents of 1 to 4 chunks for each user; how many chunks that made."""
    chunks = 0
    connection = served.connection()
    for token in tokens:
        for topic, sentence in TOPICS.items():
            for sentences in (1, 10, 60):
                text = " ".join(
                    sentence.format(month=rng.choice(MONTHS), n=rng.randrange(1, 90)) for _ in range(sentences)
                )
                body = {"doc_id": f"{topic}/{sentences}", "source": "bench", "text": text}
                response = post(connection, "memory/index", token, body)
                answer = json.loads(response.read())
                if response.status not in (200, 201):
                    raise SystemExit(f"indexing answered {response.status}: {answer['code']}")
                chunks += answer["chunks"]
    connection.close()
    return chunks


def read_stream(served: Served, token: str, body: dict, *, is_slow: bool) -> Outcome:
    """Run one stream to its end and judge it."""
    started = time.perf_counter()
    first_token_ms, raw, problem = None, b"", None
    connection = served.connection()
    try:
        response = post(connection, "stream", token, body)
        while block := response.read1(SLOW_READ_BYTES if is_slow and first_token_ms is not None else 65536):
            raw += block
            if first_token_ms is None:
                if b"event: token" in raw:
                    first_token_ms = (time.perf_counter() - started) * 1000
            elif is_slow:
                time.sleep(SLOW_PAUSE_SECONDS)
        problem = judge(raw) if response.status == 200 else f"{response.status} {json.loads(raw)['code']}"
    except OSError as error:
        problem = type(error).__name__
    finally:
        connection.close()
    total_ms = (time.perf_counter() - started) * 1000
    memory_ms = None
    if found := re.match(rb"id: 1\nevent: citations\ndata: (.*)\n", raw):
        memory_ms = json.loads(found[1])["took_ms"] or None
    return Outcome(problem, first_token_ms, total_ms, raw.count(b"event: token"), is_slow, memory_ms)


def judge(raw: bytes) -> str | None:
    """What a stream lacks to be complete, or None."""
    events = [dict(line.split(": ", 1) for line in event.splitlines()) for event in raw.decode().split("\n\n")[:-1]]
    names = [event.get("event") for event in events if "event" in event]
    ids = [event["id"] for event in events if "id" in event]
    if names[:1] != ["citations"] or names[-1:] != ["done"] or set(names[1:-1]) != {"token"}:
        return f"ended with {names[-1] if names else 'nothing'}"
    return None if ids == [str(number) for number in range(1, len(names) + 1)] else "ids do not count up"


def ask_beside(served: Served, token: str, stop: threading.Event, laps_ms: list[float], failures: list[int]) -> None:
    connection = served.connection()
    while not stop.is_set():
        started = time.perf_counter()
        response = post(connection, "memory/query", token, {"query": QUESTIONS[len(laps_ms) % 3]})
        response.read()
        laps_ms.append((time.perf_counter() - started) * 1000)
        if response.status != 200:
            failures.append(response.status)
    connection.close()


def sample(served: Served, stop: threading.Event, seen: dict[str, int]) -> None:
    """Count samples with a session idle in a transaction: at all, and for longer than LINGERING_MS."""
    with served.superuser() as connection:
        while not stop.is_set():
            momentary, lingering, sessions = connection.execute(
                "SELECT count(*) FILTER (WHERE state LIKE 'idle in transaction%%'),"
                " count(*) FILTER (WHERE state LIKE 'idle in transaction%%'"
                "   AND clock_timestamp() - state_change > make_interval(secs => %s)),"
                " count(*) FROM pg_stat_activity WHERE usename = 'r1_app'",
                [LINGERING_MS / 1000],
            ).fetchone()
            seen["samples"] += 1
            seen["with_sessions"] += bool(sessions)
            seen["idle_in_transaction_at_all"] += bool(momentary)
            seen["idle_in_transaction_lingering"] += bool(lingering)
            time.sleep(SAMPLE_SECONDS)


def measure(options) -> dict:
    rng = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="r1-bench-") as folder, Served(Path(folder) / "var") as served:
        tokens = [served.token(f"user-{number}") for number in range(options.users)]
        chunks = load(served, tokens, rng)
        print(f"{options.users} users, {chunks} chunks; {options.streams} streams", file=sys.stderr)
        for token in tokens:
            read_stream(served, token, {"message": QUESTIONS[0]}, is_slow=False)

        stop, laps_ms, failures = threading.Event(), [], []
        seen = dict.fromkeys(
            ("samples", "with_sessions", "idle_in_transaction_at_all", "idle_in_transaction_lingering"), 0
        )
        beside = [
            threading.Thread(target=ask_beside, args=(served, tokens[n % len(tokens)], stop, laps_ms, failures))
            for n in range(QUERY_THREADS)
        ] + [threading.Thread(target=sample, args=(served, stop, seen))]
        for thread in beside:
            thread.start()

        def one(number: int) -> Outcome:
            body = {"message": QUESTIONS[number % len(QUESTIONS)], "top_k": (1, 3, 3, 10)[number // 4 % 4]}
            if number % PLAIN_ONE_IN == 3:
                body["memory"] = False
            outcome = read_stream(served, tokens[number % len(tokens)], body, is_slow=number % SLOW_ONE_IN == 5)
            if number % 100 == 99:
                print(f"{number + 1} streams", file=sys.stderr)
            return outcome

        started = time.perf_counter()
        with ThreadPoolExecutor(options.at_once) as pool:
            outcomes = list(pool.map(one, range(options.streams)))
        elapsed_seconds = time.perf_counter() - started
        stop.set()
        for thread in beside:
            thread.join()

    problems: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.problem:
            problems[outcome.problem] = problems.get(outcome.problem, 0) + 1
    stages_ms = [outcome.memory_ms for outcome in outcomes if outcome.memory_ms]
    firsts_ms = [outcome.first_token_ms for outcome in outcomes if outcome.first_token_ms is not None]
    return {
        "load_1min": round(os.getloadavg()[0], 2),
        "streams": len(outcomes),
        "slow_readers": sum(outcome.is_slow for outcome in outcomes),
        "at_once": options.at_once,
        "seconds": round(elapsed_seconds, 1),
        "tokens_p50": sorted(outcome.tokens for outcome in outcomes)[len(outcomes) // 2],
        "complete": round(1 - sum(problems.values()) / len(outcomes), 5),
        "problems": problems,
        "first_token_ms": percentiles(firsts_ms) if firsts_ms else {},
        "memory_p50_ms": {stage: percentiles(one[stage] for one in stages_ms)["p50"] for stage in stages_ms[0]},
        "total_ms": percentiles([outcome.total_ms for outcome in outcomes if not outcome.is_slow]),
        "queries_beside": {"failed": len(failures), **percentiles(laps_ms)},
        "database": seen,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=1_200)
    parser.add_argument("--at-once", type=int, default=20, help="at most the service's MEMORY_STREAMS_MAX")
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    options = parser.parse_args()
    if min(options.streams, options.at_once, options.users) < 1:
        parser.error("every number must be at least 1")
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name, value in report.items():
            print(f"{name:18}{value}")
    reached = (
        report["complete"] >= COMPLETE_TARGET
        and report["first_token_ms"].get("p95", float("inf")) < FIRST_TOKEN_P95_TARGET_MS
        and not report["database"]["idle_in_transaction_lingering"]
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
