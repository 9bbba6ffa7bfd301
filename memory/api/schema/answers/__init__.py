"""What the operations answer with, as components: the bodies of `memory/api/responses/`, and what has no body there."""

from __future__ import annotations

from memory.api.responses.body import ResponseBody
from memory.api.responses.query import QUERY_ANSWER
from memory.api.schema.answers import documents, memory, operational, stream
from memory.api.shapes import Schema

# What an operation answers, or a line of it; a body within one is found there.
BODIES: tuple[ResponseBody, ...] = (QUERY_ANSWER,)

ANSWERS: dict[str, Schema] = {
    **{body.component: body.schema() for answered in BODIES for body in answered.bodies() if body.component},
    **memory.ANSWERS,
    **documents.ANSWERS,
    **operational.ANSWERS,
    **stream.ANSWERS,
}
