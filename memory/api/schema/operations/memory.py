"""Remembering and asking."""

from __future__ import annotations

from memory.api.permissions import READ_SCOPE, WRITE_SCOPE
from memory.api.schema.operation import MEMORY, Answer, Operation, link
from memory.api.shapes import Schema, ref

_AFTER_INDEX = {
    "read": link("getDocument", "Read it back.", doc_id="$response.body#/doc_id"),
    "forget": link("deleteDocument", "Forget it.", doc_id="$response.body#/doc_id"),
}
_AFTER_SUMMARY = {
    "readSummary": link("getDocument", "Read it back, where it was stored.", doc_id="$response.body#/doc_id"),
}
_IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": (
        "A name of the client's own for this request. The same key with the same body within 24 hours gives the first "
        "answer again; with another body 409. A second request at the same moment waits for the first."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]{1,128}$"},
}
_REPLAYED: dict[str, Schema] = {
    "Idempotent-Replayed": {
        "description": "Where the answer is that of an earlier request with the same `Idempotency-Key`.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
_INDEXED: Schema = {"oneOf": [ref("MemoryIndexAnswer"), ref("MemoryIndexBatchAnswer")]}
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
        summary="Remember a document, or several",
        description=(
            "Replaces an earlier version of the same `doc_id` as a whole. All or nothing; at most 200 chunks, each of "
            "which costs a token of the user's rate for chunks and counts towards the user's quota."
        ),
        scope=WRITE_SCOPE,
        request=(
            "memory.api.serializers.index.MemoryIndexRequest",
            "memory.api.serializers.index.MemoryIndexBatchRequest",
        ),
        parameters=(_IDEMPOTENCY_KEY,),
        examples={
            "note": {"summary": "A note", "value": _INDEX_EXAMPLE},
            "notes": {"summary": "Several at once", "value": {"documents": [_INDEX_EXAMPLE]}},
        },
        answers={
            200: Answer(
                description="Remembered; earlier versions of all of them were there.",
                schema=_INDEXED,
                headers=_REPLAYED,
                links=_AFTER_INDEX,
            ),
            201: Answer(
                description="Remembered; at least one is new.", schema=_INDEXED, headers=_REPLAYED, links=_AFTER_INDEX
            ),
        },
        errors=(*MEMORY, 409, 422),
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
    Operation(
        method="POST",
        path="/api/v1/memory/summarize",
        id="summarizeMemory",
        tag="Memory",
        summary="Summarise part of the memory",
        description=(
            "In cited sentences, by the deployment's language model or, where it has none or it fails, by choosing "
            "central sentences. The summary is stored as a document of source `summary`, in place of an earlier one of "
            "the same scope, and goes when a document that it covers does. Where the user's quota has no room for it, "
            "it is answered and not stored, and `degraded` says `quota`. Summaries are never summarised."
        ),
        scope=WRITE_SCOPE,
        request="memory.api.serializers.summarize.MemorySummaryRequest",
        examples={"document": {"summary": "Of one document", "value": {"doc_ids": ["notes/heating"]}}},
        answers={200: Answer(description="The summary.", schema="MemorySummaryAnswer", links=_AFTER_SUMMARY)},
        errors=(*MEMORY, 404, 422),
    ),
    Operation(
        method="POST",
        path="/api/v1/memory/entities",
        id="findEntities",
        tag="Memory",
        summary="Name who and what is mentioned",
        description=(
            "In a text, which stores nothing, or in a stored document or conversation, where what is found is written "
            "into each chunk's sealed metadata and comes back with queries; a later call replaces it."
        ),
        scope=WRITE_SCOPE,
        request="memory.api.serializers.entities.MemoryEntityRequest",
        examples={"document": {"summary": "In a stored document", "value": {"doc_id": "notes/heating"}}},
        answers={200: Answer(description="The entities, the most mentioned first.", schema="MemoryEntityAnswer")},
        errors=(*MEMORY, 404, 422),
    ),
]
