"""Remembering and asking."""

from __future__ import annotations

from memory.api.authentication import READ_SCOPE, WRITE_SCOPE
from memory.api.schema.operation import MEMORY, Answer, Operation, link

_AFTER_INDEX = {
    "read": link("getDocument", "Read it back.", doc_id="$response.body#/doc_id"),
    "forget": link("deleteDocument", "Forget it.", doc_id="$response.body#/doc_id"),
}
_INDEX_EXAMPLE = {
    "doc_id": "notes/heating",
    "source": "notes",
    "text": "The heat pump was serviced in March. Its filter is changed every six months.",
}
_QUERY_EXAMPLE = {"query": "When is the filter of the heat pump due?", "top_k": 1, "doc_id": "notes/heating"}

OPERATIONS = [
    Operation(
        method="POST",
        path="/api/v1/memory/index",
        id="indexMemory",
        tag="Memory",
        summary="Remember a document",
        description="Replaces any earlier version of the same `doc_id` as a whole. All or nothing.",
        scope=WRITE_SCOPE,
        request="memory.api.serializers.index.MemoryIndexRequest",
        examples={"note": {"summary": "A note", "value": _INDEX_EXAMPLE}},
        answers={
            200: Answer(description="Remembered, as a new version.", schema="MemoryIndexAnswer", links=_AFTER_INDEX),
            201: Answer(description="Remembered, as a new document.", schema="MemoryIndexAnswer", links=_AFTER_INDEX),
        },
        errors=(*MEMORY, 422),
    ),
    Operation(
        method="POST",
        path="/api/v1/memory/query",
        id="queryMemory",
        tag="Memory",
        summary="Ask a question",
        description="The best passages of the user's memory, each cited to the character.",
        scope=READ_SCOPE,
        request="memory.api.serializers.query.MemoryQueryRequest",
        examples={"filtered": {"summary": "Within one document", "value": _QUERY_EXAMPLE}},
        answers={200: Answer(description="The best passages; none is no error.", schema="MemoryQueryAnswer")},
        errors=(*MEMORY, 422),
    ),
]
