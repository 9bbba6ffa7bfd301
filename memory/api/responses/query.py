"""What POST /memory/query answers."""

from __future__ import annotations

from typing import Any

from memory import limits as conf
from memory.api.fields import rfc3339
from memory.api.responses.body import About, ListOf, Member, itself
from memory.api.responses.citation import CITATION, beside, cited
from memory.api.shapes import (
    array,
    boolean,
    doc_id,
    integer,
    moment,
    number,
    or_null,
    ref,
    score,
    source,
    speaker,
    string,
    thread_id,
    took_ms,
    uuid,
)
from memory.retrieval.candidate import Candidate
from memory.retrieval.rerank import NOT_REQUESTED
from memory.services.query import STAGES, MemoryAnswer
from reranker import BACKENDS, REASONS

SCORES = About(Candidate).part(
    "Each stage's score, 0 to 1; null for a stage that did not run.",
    Member("vector", score("Cosine similarity to the question, mapped to 0-1.")),
    Member("lexical", or_null(score("BM25 over the user's terms, mapped to 0-1."))),
    Member("fused", score("Both together, and what context has added.")),
    Member(
        "context",
        or_null(
            number(
                "What threads, and the dates and the speaker in the question, have added to `fused` or taken.",
                minimum=-1,
                maximum=1,
            )
        ),
    ),
    Member("decay", score("After recency.")),
    Member("rerank", or_null(score("The reranker's own."))),
)
RESULT = About(Candidate).body(
    "MemoryResult",
    "One passage.",
    Member("chunk_id", uuid(), lambda candidate: str(candidate.chunk_id)),
    Member("doc_id", doc_id()),
    Member("chunk_index", integer("Its number in the document, from 0.")),
    Member("source", source()),
    Member("thread_id", thread_id()),
    Member("speaker", speaker(), unless=None),
    Member("text", string("The passage, exactly as in the document.")),
    Member("metadata", ref("Metadata")),
    Member("created_at", moment("When the document came to be."), lambda candidate: rfc3339(candidate.created_at)),
    Member("score", score("The score of the last stage that ran, higher is better.")),
    Member("scores", SCORES, itself),
    Member("citation", CITATION, cited),
    beside(
        "before", "What stands before it in its thread, or in its document where it has none; as many as asked for."
    ),
    beside("after", "What stands after it."),
)
RERANK = About(dict).part(
    "What reranked, or why nothing did.",
    Member("backend", string("What ran, or was asked.", enum=[*BACKENDS, "none"])),
    Member(
        "skipped",
        or_null(
            string(
                "Why the order is the candidates' own; `empty` where nothing was found.",
                enum=[*REASONS, NOT_REQUESTED],
            )
        ),
    ),
)
QUERY_ANSWER = About(MemoryAnswer).body(
    "MemoryQueryAnswer",
    "The best passages for a question. `results` is empty, which is no error, when there is nothing.",
    Member("results", ListOf(RESULT, "Best first.", maxItems=conf.TOP_K_MAX)),
    Member(
        "relevant",
        boolean("Whether anything that is remembered answers the question; nothing is dropped where it does not."),
    ),
    Member("candidates", integer("How many passages the search found.")),
    Member("reranked", boolean("Whether the order is the reranker's.")),
    Member("rerank", RERANK),
    Member("variant", string("The pipeline that answered.")),
    Member(
        "degraded",
        array(
            string(enum=["quarantined"]),
            "What the answer had to do without: `quarantined` says that rows which did not open were left out.",
        ),
    ),
    Member("took_ms", took_ms(*STAGES, "total")),
)


def memory_answer(answer: MemoryAnswer) -> dict[str, Any]:
    """A query answer."""
    return QUERY_ANSWER.render(answer)
