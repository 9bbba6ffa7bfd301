"""Generating the document: drf-spectacular walks the views and the serializers, the tables here say the rest."""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from rest_framework.views import APIView

from memory import limits as conf
from memory.api.schema import fields, problems
from memory.api.schema.about import DESCRIPTION, SECURITY_SCHEMES
from memory.api.schema.answers import ANSWERS
from memory.api.schema.operations import OPERATIONS, TAGS
from memory.api.schema.words import FIELDS
from memory.api.shapes import Schema

API_PREFIX = "/api/v1/"


class OperationSchema(AutoSchema):
    """The table's entry for the operation at hand, with its request as a component."""

    def get_operation(self, path: str, path_regex: str, path_prefix: str, method: str, registry: Any) -> Schema:
        self.registry, self.path, self.path_regex = registry, path, path_regex
        self.path_prefix, self.method = path_prefix, method.upper()
        operation = OPERATIONS.get((self.method, path))
        if operation is None:
            raise LookupError(f"{self.method} {path} is not in memory/api/schema/operations/")
        request_schema = None
        if operation.request:
            request_schema = self._body(operation.request)
        query = self._query(import_string(operation.query)()) if operation.query else ()
        return operation.as_openapi(request_schema, query)

    def _body(self, serializers: str | tuple[str, ...]) -> Schema:
        if isinstance(serializers, str):
            return self.resolve_serializer(import_string(serializers), "request").ref
        return {"oneOf": [self._body(serializer) for serializer in serializers]}

    def _query(self, serializer: Any) -> tuple[Schema, ...]:
        words = FIELDS[type(serializer).__name__]
        return tuple(
            {
                "name": name,
                "in": "query",
                "description": words[name],
                "schema": self._map_serializer_field(field, "request"),
            }
            for name, field in serializer.fields.items()
        )


class PlainView(APIView):
    """Stands for a view that is none of DRF's."""

    def get(self, request: Any) -> None: ...

    def post(self, request: Any) -> None: ...


class Generator(SchemaGenerator):
    """Every view gets `OperationSchema`; what is said about it stands in the tables and not in the views."""

    def create_view(self, callback: Any, method: str, request: Any = None) -> APIView:
        view = super().create_view(callback, method, request)
        self._set_schema_to_view(view, OperationSchema())
        return view


def add_plain_views(endpoints: list) -> list:
    """drf-spectacular's hook: below the prefix only, and Django's plain views too, which it does not see."""
    found = [endpoint for endpoint in endpoints if endpoint[0].startswith(API_PREFIX)]
    seen = {(method, path) for path, _, method, _ in found}
    plain = [
        (operation.path, operation.path, operation.method, PlainView.as_view())
        for operation in OPERATIONS.values()
        if (operation.method, operation.path) not in seen
    ]
    return found + plain


def complete(result: Schema, **_: Any) -> Schema:
    """drf-spectacular's hook: the components of answers and errors, and what the document says of itself."""
    components = result["components"]
    components["schemas"] |= {
        **ANSWERS,
        **fields.metadata_levels(conf.METADATA_MAX_DEPTH, conf.METADATA_MAX_NAMES),
        **problems.problem_schemas(),
    }
    components["schemas"] = dict(sorted(components["schemas"].items()))
    components["responses"] = problems.problem_responses()
    components["headers"] = problems.HEADERS
    components["securitySchemes"] = SECURITY_SCHEMES
    result["info"]["description"] = DESCRIPTION
    result["servers"] = [{"url": "/", "description": "The service that serves this document."}]
    result["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    return result


def generate() -> bytes:
    """The whole document as it is committed: JSON in UTF-8, indented, ending in a line break."""
    document = Generator(urlconf=settings.ROOT_URLCONF).get_schema(public=True)
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()
