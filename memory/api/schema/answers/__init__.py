"""What the operations answer with, as components: the bodies of `memory/api/responses/`, and what has no body there."""

from __future__ import annotations

from memory.api.responses.body import ResponseBody
from memory.api.responses.documents import DOCUMENT_PAGE, STORED_DOCUMENT
from memory.api.responses.entities import ENTITY_ANSWER
from memory.api.responses.erase import RECEIPT
from memory.api.responses.export import EXPORTED_DOCUMENT
from memory.api.responses.index import INDEX_ANSWER, INDEX_BATCH_ANSWER
from memory.api.responses.operational import LIVENESS, READINESS, RERANK_METRICS
from memory.api.responses.query import QUERY_ANSWER
from memory.api.responses.stats import STATS
from memory.api.responses.stream import CITATIONS, DONE, TOKEN
from memory.api.responses.summarize import SUMMARY_ANSWER
from memory.api.schema.answers import stream
from memory.api.shapes import Schema

# What an operation answers, or a line or an event of it; a body within one is found there.
BODIES: tuple[ResponseBody, ...] = (
    INDEX_ANSWER,
    INDEX_BATCH_ANSWER,
    QUERY_ANSWER,
    SUMMARY_ANSWER,
    ENTITY_ANSWER,
    STORED_DOCUMENT,
    DOCUMENT_PAGE,
    EXPORTED_DOCUMENT,
    STATS,
    RECEIPT,
    CITATIONS,
    TOKEN,
    DONE,
    LIVENESS,
    READINESS,
    RERANK_METRICS,
)

ANSWERS: dict[str, Schema] = {
    **{body.component: body.schema() for answered in BODIES for body in answered.bodies() if body.component},
    **stream.ANSWERS,
}
