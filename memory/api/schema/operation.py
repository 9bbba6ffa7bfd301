"""One operation of the contract, as its table says it and as OpenAPI writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from memory.api.schema.problems import header, problem
from memory.api.shapes import Schema, ref

JSON = "application/json"

# What any request can draw before a view sees it: its length, its encoding, its host; and what can go wrong inside.
ANYWHERE = (400, 411, 413, 415, 500)
# With a token: the key that verifies it may be out of reach.
WITH_TOKEN = (*ANYWHERE, 401, 406, 503)
# With a scope, on the user's memory.
MEMORY = (*WITH_TOKEN, 403, 429)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One success: its schema (a component's name, or a schema), media type, and what a client can do next.

    `content` replaces schema and media type where there are several.
    """

    description: str
    schema: str | Schema | None = None
    media_type: str = JSON
    headers: dict[str, Schema] = field(default_factory=dict)
    links: dict[str, Schema] = field(default_factory=dict)
    example: Any = None
    content: Schema = field(default_factory=dict)

    def as_openapi(self) -> Schema:
        response: Schema = {
            "description": self.description,
            "headers": {"X-Request-ID": header("RequestId"), **self.headers},
        }
        if self.schema is not None:
            content: Schema = {"schema": ref(self.schema) if isinstance(self.schema, str) else self.schema}
            if self.example is not None:
                content["example"] = self.example
            response["content"] = {self.media_type: content}
        if self.content:
            response["content"] = self.content
        if self.links:
            response["links"] = self.links
        return response


@dataclass(frozen=True, kw_only=True)
class Operation:
    """`request` and `query` are the dotted paths of the serializers of the body, or bodies, and of the query string.

    `scope` is what a token with scopes must hold.

    `security` replaces the bearer token where it is not what the operation wants; `()` is none.
    """

    method: str
    path: str
    id: str
    tag: str
    summary: str
    answers: dict[int, Answer]
    errors: tuple[int, ...]
    description: str = ""
    scope: str | None = None
    security: tuple[Schema, ...] | None = None
    request: str | tuple[str, ...] | None = None
    query: str | None = None
    examples: dict[str, Schema] = field(default_factory=dict)
    parameters: tuple[Schema, ...] = ()

    def as_openapi(self, request_schema: Schema | None, query: tuple[Schema, ...]) -> Schema:
        operation: Schema = {"operationId": self.id, "tags": [self.tag], "summary": self.summary}
        told = [self.description, f"A token with scopes needs `{self.scope}`." if self.scope else ""]
        if any(told):
            operation["description"] = " ".join(sentence for sentence in told if sentence)
        if parameters := [*self.parameters, *query]:
            operation["parameters"] = parameters
        if request_schema is not None:
            content: Schema = {"schema": request_schema}
            if self.examples:
                content["examples"] = self.examples
            operation["requestBody"] = {"required": True, "content": {JSON: content}}
        operation["security"] = [{"bearer": []}] if self.security is None else list(self.security)
        responses = {status: answer.as_openapi() for status, answer in self.answers.items()}
        # What has a body may not get it here in time.
        errors = (*self.errors, 408) if request_schema is not None else self.errors
        responses |= {status: problem(status) for status in errors if status not in responses}
        operation["responses"] = {str(status): responses[status] for status in sorted(responses)}
        return operation


def link(operation_id: str, description: str, **parameters: str) -> Schema:
    """What the answer's value of each parameter is good for."""
    return {"operationId": operation_id, "parameters": parameters, "description": description}
