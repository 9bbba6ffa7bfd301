"""Remembering and asking."""

from __future__ import annotations

from memory import limits as conf
from memory.api.shapes import (
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
from reranker import BACKENDS, REASONS

_DOCUMENT = {
    "doc_id": doc_id(),
    "chunks": integer("How many chunks it made.", minimum=1, maximum=conf.CHUNKS_PER_CALL_MAX),
    "chunk_ids": CHUNK_IDS,
    "replaced": boolean("Whether an earlier version was there."),
}
_INDEX_TOOK_MS = took_ms("chunk", "embed", "seal", "store", "total")
_SUMMARY_STAGES = ("read", "rank", "open", "split", "embed", "llm", "store")

ANSWERS: dict[str, Schema] = {
    "MemoryIndexAnswer": obj(
        "What became of one document.",
        {**_DOCUMENT, "took_ms": _INDEX_TOOK_MS},
    ),
    "MemoryIndexBatchAnswer": obj(
        "What became of several documents.",
        {
            "documents": array(
                obj("What became of one.", _DOCUMENT),
                "As they were sent.",
                minItems=1,
                maxItems=conf.CHUNKS_PER_CALL_MAX,
            ),
            "chunks": integer("How many chunks they made together.", minimum=1, maximum=conf.CHUNKS_PER_CALL_MAX),
            "took_ms": _INDEX_TOOK_MS,
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
                    "backend": string("What ran, or was asked.", enum=[*BACKENDS, "none"]),
                    "skipped": or_null(
                        string(
                            "Why the order is the candidates' own; `empty` where nothing was found.",
                            enum=[*REASONS, NOT_REQUESTED],
                        )
                    ),
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
    "MemorySummaryAnswer": obj(
        "A summary. It is empty, which is no error, where a source or a question has nothing to summarise.",
        {
            "summary": string("The summary."),
            "sentences": array(
                obj("One sentence of the memory.", {"text": string(), "citation": ref("Citation")}),
                "What it is made of, oldest document first.",
                maxItems=conf.SUMMARY_SENTENCES_MAX,
            ),
            "covers": obj("What was considered.", {"documents": integer(), "chunks": integer()}),
            "backend": string("`extractive`, or `llm:` and the language model's name.", pattern="^(extractive$|llm:)"),
            "doc_id": or_null(doc_id("The document that the summary is stored as; null where it is not.")),
            "stored": boolean(),
            "degraded": array(string(), "What it had to do without, such as the language model or room (`quota`)."),
            "took_ms": took_ms(*_SUMMARY_STAGES, "total", optional=_SUMMARY_STAGES),
        },
    ),
    "MemoryEntityAnswer": obj(
        "Who and what is mentioned.",
        {
            "entities": array(ref("Entity"), "The most mentioned first."),
            "backend": string("What recognised them: a model's name."),
            "stored": boolean("Whether they now stand in the chunks' sealed metadata."),
        },
    ),
    "Entity": obj(
        "One entity, whatever the spellings of its mentions.",
        {
            "text": string("Its name, as it is mentioned."),
            "label": string("What it is, such as `PERSON`, `ORG`, `GPE` or `DATE`."),
            "count": integer("How many mentions it has.", minimum=1),
            "mentions": array(
                obj(
                    "One place: the characters `start` to `end` of the document, or of the text as it was sent.",
                    {
                        "chunk_id": or_null(uuid("The chunk it stands in; null for a text that is not stored.")),
                        "start": integer("The first character, from 0."),
                        "end": integer("The character after the last."),
                    },
                )
            ),
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
