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
    obj,
    or_null,
    ref,
    string,
    took_ms,
    uuid,
)

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
}
