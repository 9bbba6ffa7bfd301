"""What is remembered."""

from __future__ import annotations

from memory import limits as conf
from memory.api import patterns
from memory.api.permissions import READ_SCOPE, WRITE_SCOPE
from memory.api.schema.operation import MEMORY, Answer, Operation
from memory.api.shapes import Schema, ref

DOC_ID: Schema = {
    "name": "doc_id",
    "in": "path",
    "required": True,
    "description": (
        "The document's id, percent-encoded (slashes may stay). No empty, `.` or `..` segments, no control characters."
    ),
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": conf.DOC_ID_MAX_CHARS,
        "pattern": patterns.ADDRESSABLE,
    },
    "example": "notes/heating",
}

_LINES: Schema = {
    "type": "string",
    "contentMediaType": "application/x-ndjson",
    "contentSchema": ref("ExportedDocument"),
}

OPERATIONS = [
    Operation(
        method="GET",
        path="/api/v1/memory/documents",
        id="listDocuments",
        tag="Documents",
        summary="List documents",
        description="Newest first, a page at a time; `next` and `previous` are addresses. Nothing is opened for it.",
        scope=READ_SCOPE,
        query="memory.api.serializers.documents.MemoryDocumentsRequest",
        answers={200: Answer(description="A page.", schema="DocumentPage")},
        errors=(*MEMORY, 422),
    ),
    Operation(
        method="GET",
        path="/api/v1/memory/documents/{doc_id}",
        id="getDocument",
        tag="Documents",
        summary="Read a document back",
        description="Its text and metadata exactly as they were sent.",
        scope=READ_SCOPE,
        parameters=(DOC_ID,),
        answers={200: Answer(description="The document.", schema="StoredDocument")},
        errors=(*MEMORY, 404, 422),
    ),
    Operation(
        method="DELETE",
        path="/api/v1/memory/documents/{doc_id}",
        id="deleteDocument",
        tag="Documents",
        summary="Forget a document",
        description="It goes with everything that was derived from it.",
        scope=WRITE_SCOPE,
        parameters=(DOC_ID,),
        answers={204: Answer(description="Forgotten: no query that starts now finds it.")},
        errors=(*MEMORY, 404, 422),
    ),
    Operation(
        method="GET",
        path="/api/v1/memory/export",
        id="exportMemory",
        tag="Documents",
        summary="Take everything along",
        description=(
            "All documents as JSON Lines, streamed; what a line holds, `POST /memory/index` takes back. They come as "
            "`text/plain` where `Accept` prefers that, else as `application/x-ndjson`, for `application/json` too."
        ),
        scope=READ_SCOPE,
        answers={
            200: Answer(
                description="One document a line. A connection that ends early is an error.",
                headers={
                    "X-R1-Degraded": {
                        "description": "`quarantined`: documents whose rows were quarantined before are left out.",
                        "schema": {"type": "string", "enum": ["quarantined"]},
                    }
                },
                content={media_type: {"schema": _LINES} for media_type in ("application/x-ndjson", "text/plain")},
            )
        },
        errors=MEMORY,
    ),
    Operation(
        method="POST",
        path="/api/v1/memory/erase",
        id="eraseMemory",
        tag="Documents",
        summary="Erase everything for good",
        description=(
            "The user's keys are destroyed and all rows deleted; the receipt says from when on no backup can bring "
            "anything back. The user may begin anew."
        ),
        scope=WRITE_SCOPE,
        request="memory.api.serializers.erase.MemoryEraseRequest",
        examples={"alice": {"summary": "For the user alice", "value": {"confirm": "alice"}}},
        answers={200: Answer(description="The receipt.", schema="ErasureReceipt")},
        errors=(*MEMORY, 422),
    ),
    Operation(
        method="GET",
        path="/api/v1/memory/stats",
        id="getStats",
        tag="Documents",
        summary="The memory in numbers",
        description="With what is left of the user's quota and rates.",
        scope=READ_SCOPE,
        answers={200: Answer(description="The numbers.", schema="MemoryStats")},
        errors=MEMORY,
    ),
]
