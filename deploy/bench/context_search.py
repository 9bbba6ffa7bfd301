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
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE)]
from deploy.bench.chats import load_lines  # noqa: E402
from deploy.bench.database import machine, percentiles, service  # noqa: E402
from deploy.bench.sealed_memories import Pool, vacuum  # noqa: E402

SIZES = "20,2000,20000"
THREAD_TURNS = 20
BATCH = 400
CANDIDATES = 24
WARM_UP = 10
FIRST = datetime(2025, 1, 1, tzinfo=UTC)


def fill(pool: Pool, user_id: str, turns: int) -> None:
    """Bring the user to `turns` chunks, each a document of its own."""
    from memory.embedding.spaces import default_space
    from memory.indexing.seal import seal_document
    from memory.indexing.store import store_documents
    from memory.rls import tenant_transaction
    from memory.sealing.keyring import existing_or_new_profile, forget_profiles, under_profile
    from memory.security import hmac_user

    default_space()
    user_hash = hmac_user(user_id)
    existing_or_new_profile(user_hash, user_id)
    with tenant_transaction(user_hash) as tx:
        first = tx.state().chunk_count
    while first < turns:
        drafts = list(_turns(pool, first, min(BATCH, turns - first)))

        def store(profile, drafts=drafts) -> None:
            sealed = [seal_document(profile, *draft) for draft in drafts]
            with tenant_transaction(user_hash, write=True) as tx:
                tx.execute("SET LOCAL statement_timeout = '60s'")
                store_documents(tx, sealed)

        under_profile(user_hash, store, user_id=user_id)
        # Its speakers are new, which renewed the profile.
        forget_profiles(user_hash)
        first += len(drafts)


def _turns(pool: Pool, first: int, count: int) -> Iterator[tuple]:
    from memory.indexing.seal import DocumentDraft
    from memory.indexing.slices import Slice

    texts, vectors = pool.draw(count)
    for number, text in enumerate(texts):
        said = first + number
        draft = DocumentDraft(
            f"turn-{said}", "chat", text, f"thread-{said // THREAD_TURNS}", None,
            FIRST + timedelta(minutes=said), said, ("Alice", "Bob")[said % 2],
        )  # fmt: skip
        yield draft, [Slice(text, 0, len(text))], vectors[number : number + 1]


def timed_ms(pool: Pool, user_id: str, questions: list[str]) -> dict:
    """Percentiles of the transaction in milliseconds, with context on and off."""
    from memory.embedding.vectors import half_vectors, unit_vectors
    from memory.lexical.bm25 import lexical_query
    from memory.retrieval.search import Filters, Search  # as it was named where the search is older
    from memory.rls import tenant_transaction
    from memory.sealing.keyring import existing_profile
    from memory.sealing.protection import protect
    from memory.security import hmac_user

    user_hash = hmac_user(user_id)
    profile = existing_profile(user_hash)
    _, vectors = pool.draw(len(questions))
    samples: dict[bool, list[float]] = {False: [], True: []}
    warm_up = questions[:WARM_UP]
    for number, text in enumerate(warm_up + questions):
        unit = unit_vectors(vectors[number % len(vectors)][None, :], rows=1, dimension=vectors.shape[1])
        vector = half_vectors(protect(profile.search_key, unit))[0]
        lexical = lexical_query(profile.search_key, text, "english")
        for context in (False, True) if number % 2 else (True, False):
            started = time.perf_counter()
            with tenant_transaction(user_hash) as tx:
                search = Search(tx, profile.space, vector, CANDIDATES, Filters(), lexical, context=context)
                tx.state()
                found = search.candidates()
                search.quarantined()
            if not found:
                raise SystemExit(f"{user_id} found nothing: there is nothing to measure")
            if number >= len(warm_up):
                samples[context].append((time.perf_counter() - started) * 1000)
    return {"context off": percentiles(samples[False]), "context on": percentiles(samples[True])}


def measure(options: argparse.Namespace) -> dict:
    turns, questions = load_lines(options.texts)
    with service(options.checkout / "var" / "bench-context") as connections:
        pool = Pool(turns, HERE / "var" / f"pool-{options.texts.name if options.texts else 'made-up'}.npy")
        sizes = [int(size) for size in options.sizes.split(",")]
        for size in sizes:
            fill(pool, f"context-{size}", size)
            print(f"{size} turns", file=sys.stderr)
        vacuum(connections)
        report = {"machine": machine(connections)}
        for size in sizes:
            report[f"{size} turns"] = timed_ms(pool, f"context-{size}", questions[: options.questions])
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
