"""What the blind lexical leg costs: `make bench-lexical`, or `python deploy/bench/lexical.py --json`.

1. Start the bench's own embedded, durable PostgreSQL; load one user a size, through the product's write path,
   as sealed chunks of about 75 distinct terms with Zipf-like frequencies. What an earlier run loaded is kept.
2. Bytes a chunk on disk, indexes and TOAST included, without dead rows, of the lexical tables and of the chunks.
3. The search transaction with and without the lexical leg, question by question: six terms each, drawn as
   the texts' words are. The difference of each pair is what the leg adds, give or take the vector leg's own
   variance; so the lexical leg is timed by itself too, planning and round trip included.
4. The same for writes of one document; and how long flushing and compacting a segment take.

Progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "bench")]
# The model is not asked here, so the space is only a number.
from database import machine, percentiles, service  # noqa: E402
from query import CANDIDATES  # noqa: E402
from zipf_corpus import CHUNKS_PER_DOCUMENT, DIMENSION, LEXICAL_TABLES, Texts, load  # noqa: E402

SIZES = (20, 2_000, 20_000, 200_000)
QUERY_TERMS = 6
RUNS = 3  # of each question; the best counts, so that percentiles are over questions and not over the machine's moods


def partition_of(connections, user_hash: str, table: str) -> str:
    with connections["backup"].cursor() as cursor:
        cursor.execute(f"SELECT tableoid::regclass::text FROM {table} WHERE user_hash = %s LIMIT 1", [user_hash])
        row = cursor.fetchone()
    return row[0] if row else ""


def bytes_per_chunk(connections, user_hash: str, size: int) -> dict[str, float]:
    """On disk, indexes and TOAST included: of the partition, the share that the user has of its rows' bytes."""
    found = {}
    with connections["backup"].cursor() as cursor:
        for table in ("memory_chunks", *LEXICAL_TABLES):
            partition = partition_of(connections, user_hash, table)
            if partition:
                cursor.execute(
                    f"SELECT pg_total_relation_size('{partition}')"
                    " * coalesce(sum(pg_column_size(r.*)) FILTER (WHERE user_hash = %s), 0)"
                    f" / sum(pg_column_size(r.*)) FROM {partition} r",
                    [user_hash],
                )
                found[table] = round(cursor.fetchone()[0] / size)
    return found


def searches(user_id: str, rounds: int) -> dict[str, dict]:
    """The candidate transaction alone, with one leg and with both, each the best of RUNS; milliseconds."""
    import numpy as np

    from memory.embedding.spaces import default_space
    from memory.embedding.vectors import half_vectors, unit_vectors
    from memory.lexical.bm25 import lexical_query
    from memory.lexical.lookup import Lookup
    from memory.retrieval.filters import Filters
    from memory.retrieval.search import Search
    from memory.rls import tenant_transaction
    from memory.sealing.keyring import existing_profile
    from memory.sealing.protection import protect
    from memory.security import hmac_user

    user_hash, space, texts = hmac_user(user_id), default_space(), Texts(5)
    key, numbers = existing_profile(user_hash).search_key, np.random.default_rng(5)

    def one(vector, question: str | None) -> float:
        started = time.perf_counter()
        lexical = None if question is None else lexical_query(key, question, "english")
        with tenant_transaction(user_hash) as tx:
            search = Search(tx, space, vector, CANDIDATES, Filters(), lexical)
            tx.state()
            found = search.candidates()
            search.quarantined()
        if not found:
            raise SystemExit(f"{user_id} found nothing: there is nothing to measure")
        return (time.perf_counter() - started) * 1000

    def lexical_alone(question: str) -> float:
        query = lexical_query(key, question, "english")
        with tenant_transaction(user_hash) as tx:
            tx.state()
            started = time.perf_counter()
            Lookup(tx, space, query).hits().best(CANDIDATES)
            return (time.perf_counter() - started) * 1000

    laps: dict[str, list[float]] = {"vector leg": [], "both legs": [], "added": [], "lexical leg": []}
    for number in range(rounds + 3):
        unit = unit_vectors(numbers.normal(size=(1, DIMENSION)), rows=1, dimension=DIMENSION)
        vector, question = half_vectors(protect(key, unit))[0], " ".join(texts.words(QUERY_TERMS))
        alone = min(one(vector, None) for _ in range(RUNS))
        both = min(one(vector, question) for _ in range(RUNS))
        lexical = min(lexical_alone(question) for _ in range(RUNS))
        if number >= 3:
            for name, lap in (
                ("vector leg", alone), ("both legs", both), ("added", both - alone), ("lexical leg", lexical)
            ):  # fmt: skip
                laps[name].append(lap)
    return {name: percentiles(values) for name, values in laps.items()}


def writes(connections, user_id: str, rounds: int) -> dict[str, float]:
    """Median milliseconds of one document written and removed again, lexical off and on, in turn."""
    from django.test import override_settings

    from memory.indexing.write import index_memory_batch
    from memory.rls import bind_tenant
    from memory.security import hmac_user
    from memory.services.forget import delete_document

    texts, found = Texts(6), {}
    for chunks in (1, CHUNKS_PER_DOCUMENT):
        laps: dict[str, list[float]] = {}
        for number in range(rounds):
            passages, vectors = texts.document(chunks)
            for on in (False, True):
                doc_id = f"write-{number}-{on}"
                with override_settings(MEMORY_LEXICAL=on):
                    started = time.perf_counter()
                    index_memory_batch(connections["default"], user_id, doc_id, "bench", passages, vectors, {})
                    written = time.perf_counter()
                    with bind_tenant(hmac_user(user_id)):
                        delete_document(doc_id)
                    done = time.perf_counter()
                name = f"{chunks} chunks, " + ("on" if on else "off")
                laps.setdefault(f"write {name}", []).append((written - started) * 1000)
                laps.setdefault(f"delete {name}", []).append((done - written) * 1000)
        found |= {name: round(statistics.median(values), 2) for name, values in laps.items()}
    return found


def maintenance(connections, user_id: str) -> dict[str, float]:
    """Milliseconds to compact and to flush one whole segment of the user, rolled back; empty where there is none."""
    from memory.lexical.segments import compact, flush
    from memory.rls import tenant_transaction
    from memory.security import hmac_user

    class Undo(Exception):
        pass

    laps = {}
    try:
        with tenant_transaction(hmac_user(user_id), write=True) as tx:
            first = tx.execute(
                "SELECT space, segment FROM memory_lexical_segments WHERE user_hash = %s LIMIT 1",
                [tx.user_hash],
            ).fetchone()
            if first is None:
                return {}
            for name, step in (
                ("compact", lambda: compact(tx, *first)), ("flush", lambda: flush(tx, first[0]))
            ):  # fmt: skip
                started = time.perf_counter()
                step()
                tx.sync()
                laps[name] = round((time.perf_counter() - started) * 1000, 1)
            raise Undo
    except Undo:
        return laps


def measure(connections, options) -> dict:
    """Everything this bench knows, as one document."""
    from memory.security import hmac_user

    users = load(connections, options.sizes)
    report = {"machine": machine(connections), "sizes": {}}
    for size, user_id in users.items():
        report["sizes"][size] = {
            "bytes_per_chunk": bytes_per_chunk(connections, hmac_user(user_id), size),
            "search": searches(user_id, options.queries),
            "write": writes(connections, user_id, options.writes),
            "maintenance": maintenance(connections, user_id),
        }
        print(f"measured {size}", file=sys.stderr)
    return report


def show(report: dict) -> None:
    """The report as tables."""
    print("  ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(f"\n{'chunks':>8}{'bytes/chunk':>13}{'vector leg p50':>16}{'p95':>8}{'both p50':>10}{'p95':>8}"
          f"{'added p50':>11}{'p95':>8}{'leg p50':>9}{'p95':>8}{'flush ms':>10}{'compact':>9}")  # fmt: skip
    for size, one in report["sizes"].items():
        lexical = sum(one["bytes_per_chunk"].get(table, 0) for table in LEXICAL_TABLES)
        legs = "".join(
            f"{one['search'][name]['p50']:>{width}.2f}{one['search'][name]['p95']:>8.2f}"
            for name, width in (("vector leg", 16), ("both legs", 10), ("added", 11), ("lexical leg", 9))
        )
        maintained = one["maintenance"]
        print(f"{size:>8}{lexical:>13}{legs}{maintained.get('flush', '-'):>10}{maintained.get('compact', '-'):>9}")
    for size, one in report["sizes"].items():
        print(f"\n{size} chunks, bytes a chunk: {one['bytes_per_chunk']}")
        print("\n".join(f"  {name:28}{value:>8.2f} ms" for name, value in one["write"].items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="chunks of each user")
    parser.add_argument("--queries", type=int, default=100, help="questions a size")
    parser.add_argument("--writes", type=int, default=30, help="documents a write measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    options = parser.parse_args()
    with service() as connections:
        report = measure(connections, options)
    print(json.dumps(report, indent=2)) if options.json else show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
