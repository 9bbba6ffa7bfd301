"""The document itself."""

from __future__ import annotations

from memory.api.schema.document import MEDIA_TYPE
from memory.api.schema.operation import ANYWHERE, Answer, Operation
from memory.api.shapes import Schema

_CACHED = {
    "ETag": {"required": True, "schema": {"type": "string"}},
    "Cache-Control": {"required": True, "schema": {"type": "string"}},
}
_UNCHANGED = Answer(description="It is what `If-None-Match` names.", headers=_CACHED)
_DOCS_FILE: Schema = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"enum": ["swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js"]},
}

OPERATIONS = [
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
                media_type=MEDIA_TYPE,
                headers=_CACHED,
            ),
            304: _UNCHANGED,
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
            200: Answer(description="A page.", schema={"type": "string"}, media_type="text/html", headers=_CACHED),
            304: _UNCHANGED,
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
            ),
            304: _UNCHANGED,
        },
        errors=(*ANYWHERE, 401, 404),
    ),
]
