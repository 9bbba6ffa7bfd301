"""Answering while writing."""

from __future__ import annotations

from memory.api.permissions import READ_SCOPE
from memory.api.schema.operation import MEMORY, Answer, Operation
from memory.api.shapes import ref

_EVENTS = """\
A `text/event-stream` of, in this order:

* `event: citations`, once: `StreamCitations`, the passages that the answer is made from;
* `event: token`, any number of times: `StreamToken`, the next piece of the answer;
* `event: done`: `StreamDone`, or `event: error`: `Problem`. Exactly one of them, and nothing after it. A stream that
  ends without either was cut off.

The body is text, as server-sent events are; `contentSchema` (`StreamEvent`) is what one event is once it is parsed. Its
`data` is one line of JSON and its `id` a number from 1. A comment line (`: heartbeat`) comes where nothing was said for
10 seconds.
"""

_EXAMPLE = (
    'id: 1\nevent: citations\ndata: {"citations":[],"degraded":[],"took_ms":{}}\n\n'
    'id: 2\nevent: token\ndata: {"delta":"Nothing"}\n\n'
    'id: 3\nevent: done\ndata: {"finish_reason":"stop","usage":{"completion_tokens":1},"degraded":[],'
    '"took_ms":{"ttfv":3.2,"total":3.4}}\n\n'
)

OPERATIONS = [
    Operation(
        method="POST",
        path="/api/v1/stream",
        id="streamAnswer",
        tag="Memory",
        summary="Answer while writing",
        description=(
            "Passages of the user's memory first, then the answer in pieces, by the deployment's language model or, "
            "where it has none, made of sentences from the passages. With `memory: false` no memory is touched, and a "
            f"token with scopes needs none; else `{READ_SCOPE}`."
        ),
        request="memory.api.serializers.stream.MemoryStreamRequest",
        examples={"question": {"summary": "A question", "value": {"message": "When is the filter due?", "top_k": 1}}},
        answers={
            200: Answer(
                description=_EVENTS,
                schema={
                    "type": "string",
                    "contentMediaType": "text/event-stream",
                    "contentSchema": ref("StreamEvent"),
                },
                media_type="text/event-stream",
                example=_EXAMPLE,
            )
        },
        errors=(*MEMORY, 422),
    ),
]
