"""What the events of a stream carry."""

from __future__ import annotations

from memory import limits as conf
from memory.api.shapes import (
    Schema,
    array,
    doc_id,
    integer,
    moment,
    number,
    obj,
    or_null,
    ref,
    score,
    source,
    string,
    thread_id,
    uuid,
)


def event(name: str, data: str, description: str) -> Schema:
    """One event as a client of server-sent events sees it."""
    return obj(
        description,
        {
            "id": string("Its number, from 1.", pattern="^[1-9][0-9]*$"),
            "event": string(enum=[name]),
            "data": string("JSON.", contentMediaType="application/json", contentSchema=ref(data)),
        },
    )


ANSWERS: dict[str, Schema] = {
    "StreamEvent": {
        "description": "One event of a stream.",
        "oneOf": [
            event("citations", "StreamCitations", "First, once."),
            event("token", "StreamToken", "Any number of times."),
            event("done", "StreamDone", "The end."),
            event("error", "Problem", "The end, where something failed on the way."),
        ],
    },
    "StreamCitations": obj(
        "`event: citations`: what the answer is made from; empty without memory.",
        {
            "citations": array(
                obj(
                    "One passage, numbered as the answer's marks `[n]` are.",
                    {
                        "n": integer("Its number, from 1.", minimum=1),
                        "chunk_id": uuid(),
                        "doc_id": doc_id(),
                        "chunk_index": integer("Its place in the document, from 0."),
                        "start": integer("Its first character in the document's text, from 0."),
                        "end": integer("The character after its last."),
                        "quote": string("The passage, exactly as in the document."),
                        "score": score("As in a query's results."),
                        "source": source(),
                        "thread_id": thread_id(),
                        "created_at": moment("When the document came to be."),
                    },
                ),
                maxItems=conf.TOP_K_MAX,
            ),
            "degraded": array(string(), "As in a query's answer."),
            "took_ms": {
                "type": "object",
                "description": "Milliseconds that finding them took, by stage; empty without memory.",
                "additionalProperties": number(minimum=0),
            },
        },
    ),
    "StreamToken": obj("`event: token`.", {"delta": string("The next piece of the answer.", minLength=1)}),
    "StreamDone": obj(
        "`event: done`.",
        {
            "finish_reason": string("Why the answer ended.", enum=["stop", "length", "content_filter"]),
            "usage": {
                "type": "object",
                "description": "Tokens as the model counts them; the built-in answerer counts its pieces.",
                "additionalProperties": integer(),
            },
            "degraded": array(string(), "What the answer had to do without."),
            "took_ms": obj(
                "Milliseconds since the request was read.",
                {"ttfv": or_null(number("Until the first piece.", minimum=0)), "total": number(minimum=0)},
            ),
        },
    ),
}
