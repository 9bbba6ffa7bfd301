"""What a user's own vector index gives and costs: `make bench-own-index`, or `python deploy/bench/own_index.py --json`.

1. Start an embedded, durable PostgreSQL of its own; load one user a size, sealed for real, under vectors of real
   embeddings with noise (deploy/bench/sealed_memories.py). What an earlier run loaded is kept.
2. What `maintain_indexes` does; how long each build took, its bytes.
3. The search transaction of each user, exact and in his index: both legs with context, the service's own statement, and
   the vector leg alone. How many of the 24 that are nearest the index finds (recall). The same under filters that let
   through all of the user's rows, a tenth, a thirtieth and a hundredth. Plans, with and without a filter, judged as
   `explain_ann` does.
4. Writes of one turn by each user, beside his index.

Progress on stderr. Exit 1 where a plan visits another user's rows, or not the index that it should.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.chats import load_lines  # noqa: E402
from deploy.bench.database import machine, percentiles, service  # noqa: E402
from deploy.bench.sealed_memories import Pool, bytes_by_part, fill_user, vacuum  # noqa: E402

VAR = ROOT / "var" / "own-index"
SIZES = "20,20000,200000"
CANDIDATES = 24
FILTER_SINCE = datetime(2025, 1, 1, tzinfo=UTC)
# Percent of a user's rows that a filter lets through: the newest.
SHARES = (100, 10, 3, 1)
# Of all questions, by a user's own index; the first is not counted.
LAPS = 4


class Asker:
    """One user's searches, with the service's own statement and nothing before or after it."""

    def __init__(self, user_id: str, pool: Pool, questions: list[str]):
        from memory.security import hmac_user

        self.user_id, self.user_hash = user_id, hmac_user(user_id)
        # A question is near what is remembered, as a real one is; the same ones each time.
        self._questions, (_, self._vectors) = questions, pool.draw(len(questions))

    def profile(self):
        from memory.sealing.keyring import existing_profile, forget_profiles

        forget_profiles(self.user_hash)
        return existing_profile(self.user_hash)

    def vector(self, number: int):
        from memory.embedding.vectors import half_vectors, unit_vectors
        from memory.sealing.protection import protect

        unit = unit_vectors(self._vectors[number][None, :], rows=1, dimension=self._vectors.shape[1])
        return half_vectors(protect(self.profile().search_key, unit))[0]

    def newest(self, percent: int):
        """The filter that so many percent of the user's rows pass."""
        from memory.retrieval.filters import Filters
        from memory.rls import tenant_transaction

        newest = "SELECT percentile_disc(%s) WITHIN GROUP (ORDER BY created_at) FROM memory_chunks WHERE user_hash = %s"
        with tenant_transaction(self.user_hash) as tx:
            [since] = tx.execute(newest, [1 - percent / 100, self.user_hash]).fetchone()
        return Filters(since=since)

    def distances(self, number: int, *, has_own_index: bool, filters=None) -> list[float]:
        """Those of the vector leg's candidates, nearest first."""
        from memory.retrieval.filters import Filters
        from memory.retrieval.search import Search
        from memory.rls import tenant_transaction

        profile, vector = self.profile(), self.vector(number)
        with tenant_transaction(self.user_hash) as tx:
            found = Search(tx, profile.space, vector, CANDIDATES, filters or Filters(), has_own_index=has_own_index)
            return [candidate.distance for candidate in found.candidates()]

    def timed_ms(self, *, has_own_index: bool, filters=None, vectors_alone: bool = False) -> dict:
        """The search transaction of each question, with both legs and context or one leg; percentiles in ms.

        By the user's own index LAPS times over, and the first is not counted: a server that has just started reads from
        its files.
        """
        from memory.lexical.bm25 import lexical_query
        from memory.retrieval.filters import Filters
        from memory.retrieval.search import Search
        from memory.rls import tenant_transaction

        profile, samples = self.profile(), []
        filters = filters or Filters()
        for lap in range(LAPS if has_own_index else 1):
            for number, text in enumerate(self._questions):
                lexical = None if vectors_alone else lexical_query(profile.search_key, text, "english")
                vector = self.vector(number)
                started = time.perf_counter()
                with tenant_transaction(self.user_hash) as tx:
                    found = Search(
                        tx,
                        profile.space,
                        vector,
                        CANDIDATES,
                        filters,
                        lexical,
                        context=True,
                        has_own_index=has_own_index,
                    )
                    found.found()
                if lap or not has_own_index:
                    samples.append((time.perf_counter() - started) * 1000)
        return percentiles(samples)

    def plans(self) -> dict:
        """By search, unfiltered and filtered: what `explain_ann` says of it."""
        from memory.retrieval.filters import Filters
        from memory.retrieval.plan import explain_candidates, foreign_row_findings

        profile, found = self.profile(), {}
        for name, filters in {"plain": Filters(), "filtered": replace(Filters(), since=FILTER_SINCE)}.items():
            explain_candidates(self.user_hash, profile.space, self.vector(0), CANDIDATES, filters)
            plan, owned = explain_candidates(self.user_hash, profile.space, self.vector(0), CANDIDATES, filters)
            findings = [*foreign_row_findings(plan, self.user_hash, owned), *plan.own_index_findings(self.user_hash)]
            summary = plan.summary()
            found[name] = {
                "one_time_filter": bool(summary["one_time_filter"]),
                "own_index": summary["own_index"] is not None,
                "buffers": summary["buffers"],
                "planning_ms": summary["planning_ms"],
                "execution_ms": summary["execution_ms"],
                "findings": findings,
            }
        return found

    def written_ms(self, pool: Pool, writes: int) -> dict:
        """One document of one chunk a transaction, durable, without embedding; percentiles in milliseconds."""
        from django.db import connections

        from memory.indexing.write import index_memory_chunk

        samples, (texts, vectors) = [], pool.draw(writes)
        for number, text in enumerate(texts):
            started = time.perf_counter()
            index_memory_chunk(
                connections["default"], self.user_id, f"written-{number}", "bench", text, vectors[number]
            )
            samples.append((time.perf_counter() - started) * 1000)
        return percentiles(samples)


def recall(asker: Asker, questions: int, filters=None) -> float:
    """Of the exact nearest, the share that the index finds: of rows as near as the last one, any counts."""
    from memory.maintenance.index_recall import as_near

    shares = []
    for number in range(questions):
        exact = asker.distances(number, has_own_index=False, filters=filters)
        found = as_near(exact, asker.distances(number, has_own_index=True, filters=filters))
        shares.append(min(found, len(exact)) / len(exact))
    return round(sum(shares) / len(shares), 4)


def build() -> list[dict]:
    """Carry out what `maintain_indexes` would: seconds and megabytes of each act."""
    from django.db import connections

    from memory.maintenance.index_builds import carried_out
    from memory.maintenance.own_indexes import plan

    found, started = [], time.perf_counter()
    for task, ending in carried_out(plan(connections["maint"]).tasks):
        seconds, started = time.perf_counter() - started, time.perf_counter()
        with connections["maint"].cursor() as cursor:
            cursor.execute("SELECT coalesce(pg_relation_size(to_regclass(%s)), 0)", [task.name])
            megabytes = round(cursor.fetchone()[0] / 2**20, 1)
        found.append(
            {"act": str(task.act), "ending": str(ending), "seconds": round(seconds, 1), "megabytes": megabytes}
        )
        print(found[-1], file=sys.stderr)
    return found


def measure(options: argparse.Namespace) -> dict:
    sizes = [int(size) for size in options.sizes.split(",")]
    turns, questions = load_lines(options.texts)
    questions = questions[: options.questions]
    with service(VAR) as connections:
        pool = Pool(turns, VAR / f"pool-{options.texts.name if options.texts else 'made-up'}.npy")
        loaded, started = 0, time.perf_counter()
        askers = {size: Asker(f"own-index-{size}", pool, questions) for size in sizes}
        for size, asker in askers.items():
            loaded += fill_user(pool, asker.user_id, size)
            print(f"{size} chunks: {loaded / (time.perf_counter() - started):,.0f} chunks/s", file=sys.stderr)
        report: dict = {"machine": machine(connections), "chunks_per_second": None}
        if loaded:
            report["chunks_per_second"] = round(loaded / (time.perf_counter() - started))
        report["vacuum_seconds"] = round(vacuum(connections), 1)
        report["builds"] = build()
        report["bytes_a_chunk"] = bytes_by_part(connections)
        for size, asker in askers.items():
            has_own = asker.profile().has_own_index
            found = {"has_own_index": has_own, "plans": asker.plans()}
            for vectors_alone in (False, True):
                name = "vectors alone, " if vectors_alone else ""
                found[f"{name}exact_ms"] = asker.timed_ms(has_own_index=False, vectors_alone=vectors_alone)
                if has_own:
                    found[f"{name}own_ms"] = asker.timed_ms(has_own_index=True, vectors_alone=vectors_alone)
            if has_own:
                found["recall"] = recall(asker, len(questions))
            for percent in SHARES:
                filters, name = asker.newest(percent), f"{percent} % pass, "
                found[f"{name}exact_ms"] = asker.timed_ms(has_own_index=False, filters=filters)
                if has_own:
                    found[f"{name}own_ms"] = asker.timed_ms(has_own_index=True, filters=filters)
                    found[f"{name}recall"] = recall(asker, len(questions), filters)
            found["write_ms"] = asker.written_ms(pool, options.writes)
            report[f"{size} chunks"] = found
            print(f"{size} chunks: {found}", file=sys.stderr)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default=SIZES, help="chunks of each user, with commas (%(default)s)")
    parser.add_argument("--questions", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--writes", type=int, default=100, help="of each user (%(default)s)")
    parser.add_argument("--texts", type=Path, help="a folder of chats (deploy/bench/chats.py); none: made-up words")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    options = parser.parse_args()
    if min(options.questions, options.writes) < 1 or not all(part.isdigit() for part in options.sizes.split(",")):
        parser.error("every number must be positive")
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for key, value in report.items():
            print(f"{key:18}{json.dumps(value)}")
    of_sizes = [found for key, found in report.items() if key.endswith(" chunks")]
    return int(any(plan["findings"] for found in of_sizes for plan in found["plans"].values()))


if __name__ == "__main__":
    sys.exit(main())
