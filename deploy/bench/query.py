"""Time queries and writes end to end on this machine: `make bench-query`, or `python deploy/bench/query.py --json`.

1. Start an embedded, durable PostgreSQL of its own under var/bench; migrate; register the space.
2. Load, as r1_app bound to each user and sealed with that user's own key: one user of many chunks and
   many users of a few. What an earlier run loaded is kept and used again.
3. Time the service's own query walk (real embedding of real questions), then the search alone, by kind
   of user, with cold and warm keys, in one and in several threads.
4. Explain each search and prove that it visits its user's rows only.
5. Time writes through `index_memory_batch`.

Exit 0, or 1 when a plan touches another user's rows. Progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "bench")]
from corpus import CHUNKS_PER_DOCUMENT, Corpus, load, remove_user  # noqa: E402
from database import machine, percentiles, service  # noqa: E402

CANDIDATES = 24
THREADS = 4
QUESTIONS = (
    "When was the heat pump in the cellar serviced?",
    "What did the doctor say about my blood pressure?",
    "Which train do I take to visit my grandmother?",
    "How much did we spend on the new kitchen?",
    "Who recommended the restaurant by the harbour?",
    "What is the name of Anna's new colleague?",
    "Where did I put the spare key of the garage?",
    "Which allergy medicine made me drowsy?",
    "What were the three options for the summer holiday?",
    "How often must the water filter be changed?",
    "Why was the release postponed in November?",
    "What colour did we choose for the bedroom walls?",
    "Which book did my sister want for her birthday?",
    "When does the lease of the car end?",
    "What was the outcome of the meeting with the bank?",
    "How do I reset the router to its factory settings?",
)


def ask(user_id: str, question: str) -> dict[str, float]:
    """One query of one user through the service: milliseconds by stage."""
    from memory.rls import bind_tenant
    from memory.security import hmac_user
    from memory.services.query import MemoryQuery, query_memory

    with bind_tenant(hmac_user(user_id)):
        answer = query_memory(MemoryQuery(question))
    if not answer.results:
        raise SystemExit(f"{user_id} found nothing: there is nothing to measure")
    return answer.took_ms


def walk(users: list[str], *, threads: int = 1, before: Callable[[str], None] = lambda user_id: None) -> dict:
    """The service's own query walk for each of `users` in turn: percentiles by stage, and the rate."""

    def one(numbered: tuple[int, str]) -> dict[str, float]:
        number, user_id = numbered
        before(user_id)
        return ask(user_id, QUESTIONS[number % len(QUESTIONS)])

    started = time.perf_counter()
    if threads == 1:
        laps = [one(pair) for pair in enumerate(users)]
    else:
        with ThreadPoolExecutor(threads) as pool:
            laps = list(pool.map(one, enumerate(users)))
    rate = len(laps) / (time.perf_counter() - started)
    stages = {stage: percentiles(lap[stage] for lap in laps) for stage in laps[0]}
    return {"queries_per_second": round(rate, 1), **stages}


def searchable(user_id: str, embedding):
    """(hash, the question's vector as that user's rows have it)."""
    from memory.embedding.vectors import half_vectors
    from memory.sealing.keyring import existing_profile
    from memory.sealing.protection import protect
    from memory.security import hmac_user

    user_hash = hmac_user(user_id)
    return user_hash, half_vectors(protect(existing_profile(user_hash).search_key, embedding[None, :]))[0]


def search_alone(users: list[str], embeddings: list, *, threads: int = 1) -> dict:
    """The candidate transaction alone: connection, setting, state, search, quarantine test, commit."""
    from memory.embedding.spaces import default_space
    from memory.retrieval.filters import Filters
    from memory.retrieval.search import Search
    from memory.rls import tenant_transaction

    space = default_space()
    prepared = [searchable(user_id, embeddings[i % len(embeddings)]) for i, user_id in enumerate(users)]

    def one(pair) -> float:
        user_hash, vector = pair
        started = time.perf_counter()
        with tenant_transaction(user_hash) as tx:
            search = Search(tx, space, vector, CANDIDATES, Filters())
            tx.end()
            search.found()
            search.quarantined()
        return (time.perf_counter() - started) * 1000

    if threads == 1:
        return percentiles([one(pair) for pair in prepared])
    with ThreadPoolExecutor(threads) as pool:
        return percentiles(pool.map(one, prepared))


def explain(user_id: str, embedding) -> dict:
    """The plan of one user's search, the second of two runs, with what is wrong about it."""
    from memory.embedding.spaces import default_space
    from memory.retrieval.plan import explain_candidates, foreign_row_findings

    user_hash, vector = searchable(user_id, embedding)
    explain_candidates(user_hash, default_space(), vector, CANDIDATES)
    plan, owned_rows = explain_candidates(user_hash, default_space(), vector, CANDIDATES)
    findings = foreign_row_findings(plan, user_hash, owned_rows)
    text = re.sub(r"'\[[^]]*\]'::halfvec", "'[…]'::halfvec", plan.text)
    return {"owned_rows": owned_rows["memory_chunks"], **plan.summary(), "findings": findings, "text": text}


def write_cost(connections, rounds: int) -> dict:
    """Rows a second of `index_memory_batch`, one durable transaction a document, by chunks a document."""
    import uuid

    from memory.indexing.write import index_memory_batch

    corpus, costs = Corpus(1), {}
    for chunks in (1, 20, CHUNKS_PER_DOCUMENT):
        user_id = f"bench-write-{uuid.uuid4().hex}"
        documents = [corpus.document(chunks) for _ in range(max(3, rounds // chunks))]
        index_memory_batch(connections["default"], user_id, "first", "bench", *corpus.document(1))
        for kind in ("new", "replaced"):
            laps_ms, started = [], time.perf_counter()
            for number, (passages, vectors) in enumerate(documents):
                before = time.perf_counter()
                index_memory_batch(connections["default"], user_id, f"doc-{number}", "bench", passages, vectors)
                laps_ms.append((time.perf_counter() - before) * 1000)
            rate = chunks * len(documents) / (time.perf_counter() - started)
            costs[f"{chunks} chunks, {kind}"] = {"rows_per_second": round(rate), **percentiles(laps_ms)}
        remove_user(connections, user_id)
    return costs


def measure(connections, options) -> dict:
    """Everything this bench knows, as one document. Milliseconds throughout."""
    from memory.embedding.process import get_embedder
    from memory.sealing.keyring import forget_profiles
    from memory.security import hmac_user

    big, small, table = load(connections, options)
    chosen = random.Random(7).choices(small, k=options.queries)
    embeddings = [get_embedder().embed_query(question) for question in QUESTIONS]

    def forget(user_id: str) -> None:
        forget_profiles(hmac_user(user_id))

    def forget_everything(user_id: str) -> None:
        forget_profiles()
        connections["default"].close_pool()

    for user_id in (big, *small[:20]):
        ask(user_id, QUESTIONS[0])
    big_name, small_name = f"{options.big_chunks}-chunk user", f"{options.chunks}-chunk users"
    stages = {}
    for name, run in {
        f"{big_name}, warm": lambda: walk([big] * options.queries),
        f"{small_name}, keys cold": lambda: walk(chosen, before=forget),
        f"{small_name}, keys warm": lambda: walk(chosen),
        f"{small_name}, first query, no connection": lambda: walk(chosen[:50], before=forget_everything),
        f"{small_name}, {THREADS} threads": lambda: walk(chosen, threads=THREADS),
        f"{big_name}, {THREADS} threads": lambda: walk([big] * options.queries, threads=THREADS),
    }.items():
        stages[name] = run()
        print(f"measured {name}", file=sys.stderr)
    searches = {
        f"{big_name}": search_alone([big] * options.queries, embeddings),
        f"{small_name}": search_alone(chosen, embeddings),
        f"{small_name}, {THREADS} threads": search_alone(chosen, embeddings, threads=THREADS),
        f"{big_name}, {THREADS} threads": search_alone([big] * options.queries, embeddings, threads=THREADS),
    }
    plans = {big_name: explain(big, embeddings[0]), small_name: explain(chosen[0], embeddings[0])}
    return {
        "machine": machine(connections),
        "table": table,
        "query": stages,
        "search": searches,
        "plans": plans,
        "write": write_cost(connections, options.write_rows),
    }


def show(report: dict) -> None:
    """The report as tables."""
    print("  ".join(f"{name} {value}" for name, value in report["machine"].items()))
    table = report["table"]
    print(f"table: {table['users']:,} users, {table['chunks']:,} chunks, {table['database_size']}")
    print(f"\n{'query walk, ms':48}{'stage':8}{'n':>6}{'p50':>9}{'p95':>9}{'p99':>9}")
    for name, stages in report["query"].items():
        print(f"{name}: {stages['queries_per_second']:,.0f} queries/s")
        for stage, p in stages.items():
            if isinstance(p, dict):
                print(f"{'':48}{stage:8}{p['n']:>6}{p['p50']:>9.2f}{p['p95']:>9.2f}{p['p99']:>9.2f}")
    print(f"\n{'search transaction alone, ms':56}{'n':>6}{'p50':>9}{'p95':>9}{'p99':>9}")
    for name, p in report["search"].items():
        print(f"{name:56}{p['n']:>6}{p['p50']:>9.2f}{p['p95']:>9.2f}{p['p99']:>9.2f}")
    for name, plan in report["plans"].items():
        print(f"\nplan, {name}: {plan['owned_rows']} rows owned, {plan['buffers']} buffers")
        print(plan["text"])
        print("\n".join(plan["findings"]) or "no finding: it visits this user's rows only")
    print(f"\n{'index_memory_batch, one transaction a document':56}{'rows/s':>9}{'p50':>9}{'p95':>9}{'p99':>9}")
    for name, p in report["write"].items():
        print(f"{name:56}{p['rows_per_second']:>9,}{p['p50']:>9.2f}{p['p95']:>9.2f}{p['p99']:>9.2f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--users", type=int, default=10_000, help="users with a few chunks each")
    parser.add_argument("--chunks", type=int, default=20, help="chunks of each of them")
    parser.add_argument("--big-chunks", type=int, default=10_000, help="chunks of the one big user")
    parser.add_argument("--queries", type=int, default=300, help="queries a measurement")
    parser.add_argument("--write-rows", type=int, default=2_000, help="rows a write measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options = parser.parse_args()
    if min(options.users, options.chunks, options.big_chunks, options.queries, options.write_rows) < 1:
        parser.error("every number must be at least 1")
    with service() as connections:
        report = measure(connections, options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 1 if any(plan["findings"] for plan in report["plans"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
