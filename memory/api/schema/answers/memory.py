"""Remembering and asking."""

from __future__ import annotations

from memory import conf
from memory.api.schema.shapes import (
    CHUNK_IDS,
    Schema,
    array,
    boolean,
    doc_id,
    integer,
    moment,
    obj,
    or_null,
    ref,
    score,
    source,
    string,
    thread_id,
    took_ms,
    uuid,
)
from memory.retrieval.rerank import NOT_REQUESTED
from reranker import REASONS

ANSWERS: dict[str, Schema] = {
    "MemoryIndexAnswer": obj(
        "What became of one document.",
        {
            "doc_id": doc_id(),
            "chunks": integer("How many chunks it made.", minimum=1, maximum=conf.CHUNKS_PER_CALL_MAX),
            "chunk_ids": CHUNK_IDS,
            "replaced": boolean("Whether an earlier version was there."),
            "took_ms": took_ms("chunk", "embed", "seal", "store", "total"),
        },
    ),
    "MemoryQueryAnswer": obj(
        "The best passages for a question. `results` is empty, which is no error, when there is nothing.",
        {
            "results": array(ref("MemoryResult"), "Best first.", maxItems=conf.TOP_K_MAX),
            "candidates": integer("How many passages the search found."),
            "reranked": boolean("Whether the order is the reranker's."),
            "rerank": obj(
                "What reranked, or why nothing did.",
                {
                    "backend": string("What ran, or was asked.", enum=["cross_encoder", "late_interaction", "none"]),
                    "skipped": or_null(string("Why the order is the candidates' own.", enum=[*REASONS, NOT_REQUESTED])),
                },
            ),
            "variant": string("The pipeline that answered."),
            "degraded": array(
                string(enum=["quarantined"]),
                "What the answer had to do without: `quarantined` says that rows which did not open were left out.",
            ),
            "took_ms": took_ms("embed", "ann", "open", "rerank", "total"),
        },
    ),
    "MemoryResult": obj(
        "One passage.",
        {
            "chunk_id": uuid(),
            "doc_id": doc_id(),
            "chunk_index": integer("Its place in the document, from 0."),
            "source": source(),
            "thread_id": thread_id(),
            "text": string("The passage, exactly as in the document."),
            "metadata": ref("Metadata"),
            "created_at": moment("When the document came to be."),
            "score": score("The score of the last stage that ran, higher is better."),
            "scores": obj(
                "Each stage's score, 0 to 1; null for a stage that did not run.",
                {
                    "vector": score("Cosine similarity to the question, mapped to 0-1."),
                    "lexical": or_null(score("BM25 over the user's terms, mapped to 0-1.")),
                    "fused": score("Both together."),
                    "decay": score("After recency."),
                    "rerank": or_null(score("The reranker's own.")),
                },
            ),
            "citation": ref("Citation"),
        },
    ),
    "Citation": obj(
        "Where a passage stands: `quote` is exactly the characters `start` to `end` of the text as it was sent.",
        {
            "doc_id": doc_id(),
            "chunk_index": integer("The chunk's place in the document, from 0."),
            "start": integer("The first character, from 0."),
            "end": integer("The character after the last."),
            "quote": string("The passage itself."),
        },
    ),
}
