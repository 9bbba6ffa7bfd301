"""What a summary of 200 chunks costs and says: `make bench-summarize`, or `python deploy/bench/summarize.py --json`.

1. Start the bench's own embedded, durable PostgreSQL; index a user who exists for this run, through the service: the
   topics of Python's own help (`pydoc_data`), 200 chunks of about 500 tokens of English prose and tables.
2. Time summaries of the whole source, stored each time, stage by stage, from one caller and from several.
3. Weigh what they say: for every sentence of the 200 chunks, its cosine to the nearest of the five chosen, on average.
   Beside the service's own choice: the same method with every sentence embedded, five sentences at random (the mean of
   200 draws), and the first sentences of the first five documents.

Progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "deploy" / "bench")]
from database import machine, percentiles, service  # noqa: E402

CHUNKS = 200
SENTENCES = 5
SOURCE = "help"


def load(user) -> None:
    """Documents of CHUNKS chunks together: the longest topics first, the last one cut."""
    from pydoc_data.topics import topics

    from memory.indexing.seal import DocumentDraft
    from memory.services.index import active_embedder, chunks_of, index_document

    left, place = CHUNKS, active_embedder(user.user_hash)
    for name, text in sorted(topics.items(), key=lambda topic: (-len(topic[1]), topic[0])):
        [chunks] = chunks_of([text], *place)
        text = text[: chunks[min(left, len(chunks)) - 1].end]
        [chunks] = chunks_of([text], *place)
        if len(chunks) > left:
            continue
        user.call(index_document, user.user_id, DocumentDraft(f"help/{name}", SOURCE, text))
        left -= len(chunks)
        print(f"indexed {CHUNKS - left} of {CHUNKS} chunks", file=sys.stderr)
        if not left:
            return
    raise SystemExit(f"the topics make only {CHUNKS - left} chunks")


def times(user, runs: int, callers: int) -> dict:
    """Percentiles in milliseconds of each stage over `runs` summaries by `callers` at once."""
    from django.db import connections

    from memory.services.summarize import SummaryScope, summarize_memory

    def one(_):
        try:
            made = user.call(summarize_memory, user.user_id, SummaryScope("source", SOURCE))
            assert made.covers_chunks == CHUNKS and made.doc_id
            return made.took_ms
        finally:
            connections["default"].close()

    with ThreadPoolExecutor(callers) as pool:
        started = time.perf_counter()
        laps = list(pool.map(one, range(runs)))
        elapsed = time.perf_counter() - started
    stages = {stage: percentiles([lap[stage] for lap in laps]) for stage in laps[0]}
    return {"callers": callers, "runs": runs, "a_second": round(runs / elapsed, 2), **stages}


def coverage(user) -> dict:
    """Mean cosine of every sentence to the nearest chosen one, by who chose; and how many sentences there are."""
    import numpy as np

    from memory.embedding.process import get_embedder
    from memory.language.extract import central_sentences, cited_sentences
    from memory.retrieval.chunks import ChunkScope, read_chunks
    from memory.retrieval.open import open_texts
    from memory.services.summarize import SummaryScope, summarize_memory

    read = user.call(lambda: read_chunks(ChunkScope(source=SOURCE), limit=CHUNKS))
    chunks = sorted(read.chunks, key=lambda chunk: (chunk.created_at, chunk.doc_id, chunk.chunk_index))
    user.call(open_texts, read.keys, chunks)
    sentences = cited_sentences(chunks)
    print(f"embedding {len(sentences)} sentences", file=sys.stderr)
    started = time.perf_counter()
    units = get_embedder().embed_passages([sentence.text for sentence in sentences])
    embed_all_ms = (time.perf_counter() - started) * 1000

    def covered(chosen: np.ndarray) -> float:
        return round(float((units @ chosen.T).max(axis=1).mean()), 4)

    made = user.call(summarize_memory, user.user_id, SummaryScope("source", SOURCE))
    draw = random.Random(0)
    firsts: dict[str, int] = {}
    for index, sentence in enumerate(sentences):
        firsts.setdefault(sentence.citation.doc_id, index)
    at_random = [covered(units[draw.sample(range(len(units)), SENTENCES)]) for _ in range(200)]
    return {
        "sentences": len(sentences),
        "embed_all_ms": round(embed_all_ms),
        "service": covered(get_embedder().embed_passages([sentence.text for sentence in made.sentences])),
        "every_sentence_embedded": covered(units[central_sentences(units, SENTENCES)]),
        "first_sentences": covered(units[list(firsts.values())[:SENTENCES]]),
        "random": {"mean": round(sum(at_random) / len(at_random), 4), "best_of_200": max(at_random)},
        "summary": [sentence.text for sentence in made.sentences],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--json", action="store_true", help="only the JSON document")
    options = parser.parse_args()

    with service() as connections:
        from memory.evaluation.throwaway import ThrowAwayUser

        with ThrowAwayUser("summaries") as user:
            load(user)
            times(user, 3, 1)
            timed = [times(user, options.runs, callers) for callers in options.callers]
            result = {"machine": machine(connections), "times_ms": timed, "coverage": coverage(user)}
    print(json.dumps(result) if options.json else json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
