"""Every operation of the service: what it takes, and all that it can answer."""

from __future__ import annotations

from memory import conf
from memory.api.authentication import READ_SCOPE, WRITE_SCOPE
from memory.api.schema import patterns
from memory.api.schema.operation import ANYWHERE, MEMORY, WITH_TOKEN, Answer, Operation, link
from memory.api.schema.shapes import Schema

TAGS = {
    "Memory": "Remember texts, ask questions, and be cited.",
    "Documents": "What is remembered, one document at a time or as a whole.",
    "Operations": "For probes and scrapers; they answer at the root as well, without `/api/v1`.",
    "Contract": "This document.",
}

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

_MEMORY = [
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

_DOCUMENTS = [
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
]

_OPERATIONS = [
    Operation(
        method="GET",
        path="/api/v1/auth/check",
        id="checkToken",
        tag="Operations",
        summary="Check a token",
        description="Verifies the bearer token and touches no database.",
        answers={204: Answer(description="The token is valid.")},
        errors=WITH_TOKEN,
    ),
    Operation(
        method="GET",
        path="/api/v1/health/live",
        id="getLiveness",
        tag="Operations",
        summary="Whether the process answers",
        security=(),
        answers={200: Answer(description="It does.", schema="Liveness")},
        errors=ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/api/v1/health/ready",
        id="getReadiness",
        tag="Operations",
        summary="Whether the service can do its work",
        description="Looks again after 3 seconds at the earliest.",
        security=(),
        answers={
            200: Answer(description="No component has failed.", schema="Readiness"),
            503: Answer(description="A component has failed.", schema="Readiness"),
        },
        errors=ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/api/v1/metrics",
        id="getMetrics",
        tag="Operations",
        summary="Metrics of all workers, for Prometheus",
        description="With the metrics token, or from loopback where no proxy stands between.",
        security=({}, {"metricsToken": []}),
        answers={
            200: Answer(description="Prometheus text.", schema={"type": "string"}, media_type="text/plain"),
        },
        errors=(*ANYWHERE, 401),
    ),
]

_CACHED = {
    "ETag": {"required": True, "schema": {"type": "string"}},
    "Cache-Control": {"required": True, "schema": {"type": "string"}},
}
_DOCS_FILE: Schema = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"enum": ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js"]},
}

_CONTRACT = [
    Operation(
        method="GET",
        path="/api/v1/schema",
        id="getSchema",
        tag="Contract",
        summary="This document",
        security=(),
        answers={
            200: Answer(
                description="OpenAPI 3.1.0 as JSON.",
                schema={"type": "object"},
                media_type="application/vnd.oai.openapi+json",
                headers=_CACHED,
            )
        },
        errors=ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/api/v1/docs",
        id="getDocs",
        tag="Contract",
        summary="This document, to read and try",
        description="Swagger UI, from files of the service's own.",
        security=(),
        answers={
            200: Answer(description="A page.", schema={"type": "string"}, media_type="text/html", headers=_CACHED)
        },
        errors=ANYWHERE,
    ),
    Operation(
        method="GET",
        path="/api/v1/docs/{name}",
        id="getDocsFile",
        tag="Contract",
        summary="A file of that page",
        security=(),
        parameters=(_DOCS_FILE,),
        answers={
            200: Answer(
                description="The file.",
                headers=_CACHED,
                content={kind: {} for kind in ("text/css", "text/javascript", "image/png")},
            )
        },
        errors=(*ANYWHERE, 401, 404),
    ),
]

OPERATIONS: dict[tuple[str, str], Operation] = {
    (operation.method, operation.path): operation
    for operation in [*_MEMORY, *_DOCUMENTS, *_OPERATIONS, *_CONTRACT]
}
