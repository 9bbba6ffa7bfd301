"""The events of a stream; what they carry is said in `memory/api/responses/stream.py`."""

from __future__ import annotations

from memory.api.shapes import Schema, obj, ref, string


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
}
