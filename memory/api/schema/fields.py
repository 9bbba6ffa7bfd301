"""The strict fields as JSON Schema: each limit that JSON Schema can say, the others in words."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension, OpenApiSerializerFieldExtension
from rest_framework.serializers import ListSerializer

from memory import limits as conf
from memory.api import patterns
from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields.metadata import INT64_MAX, INT64_MIN
from memory.api.schema.words import FIELDS

Schema = dict[str, Any]

# The check that these have of their own in a serializer is that they are not blank.
NEVER_BLANK = ("text", "message")
# Bodies that name what they are about in one of several ways.
EXACTLY_ONE = {
    "MemoryEntityRequest": ("text", "doc_id", "thread_id"),
    "MemorySummaryRequest": ("doc_ids", "thread_id", "source", "query"),
}


def text(field: Any) -> Schema:
    """A StrictCharField, an Identifier, or one item of a StringOrList."""
    schema: Schema = {"type": "string", "minLength": field.min_chars}
    # A character is at least a byte.
    if longest := field.max_chars or field.max_bytes:
        schema["maxLength"] = longest
    if refuse_unaddressable in field.validators:
        schema["pattern"] = patterns.ADDRESSABLE
    elif not field.control_characters:
        schema["pattern"] = patterns.IDENTIFIER
    elif field.field_name in NEVER_BLANK and hasattr(field.parent, f"validate_{field.field_name}"):
        schema["pattern"] = patterns.NOT_BLANK
    else:
        schema["pattern"] = patterns.STORABLE
    return schema


def text_or_list(field: Any) -> Schema:
    one = text(field)
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": field.max_items}]}


def number(field: Any, kind: str) -> Schema:
    limits = {"minimum": field.min_value, "maximum": field.max_value}
    return {"type": kind, **{name: limit for name, limit in limits.items() if limit is not None}}


def metadata_levels(max_depth: int, max_names: int) -> dict[str, Schema]:
    """`Metadata` and the `MetadataLevel<n>`s inside it: objects and lists down to level `max_depth`, then none."""
    scalar: Schema = {"type": ["string", "boolean", "null"], "pattern": patterns.STORABLE}
    whole: Schema = {"type": "number", "minimum": INT64_MIN, "maximum": INT64_MAX}
    names: Schema = {"pattern": patterns.STORABLE}

    def members(level: int) -> Schema:
        if level > max_depth:
            return {"anyOf": [scalar, whole]}
        return {"$ref": f"#/components/schemas/MetadataLevel{level}"}

    levels: dict[str, Schema] = {
        "Metadata": {
            "type": "object",
            "description": (
                f"Any JSON object of the product's own, at most {max_depth} levels deep, 65,536 bytes as compact "
                f"JSON and {max_names:,} names in all its objects together when it is sent. It comes back exactly as "
                "sent. Integers fit 64 bits signed; numbers written with a "
                "fraction or an exponent may be larger, which this schema cannot say."
            ),
            "propertyNames": names,
            "additionalProperties": members(2),
        }
    }
    for level in range(2, max_depth + 1):
        levels[f"MetadataLevel{level}"] = {
            "description": f"A value at level {level} of {max_depth}.",
            "anyOf": [
                scalar,
                whole,
                {"type": "object", "propertyNames": names, "additionalProperties": members(level + 1)},
                {"type": "array", "items": members(level + 1)},
            ],
        }
    return levels


def exactly(name: str, alternatives: tuple[str, ...]) -> Schema:
    """That of `alternatives` it is `name` that is there and not null."""
    others = {other: {"type": "null"} for other in alternatives if other != name}
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}, **others}}


class _StrictField(OpenApiSerializerFieldExtension):
    match_subclasses = True

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        raise NotImplementedError


class TextExtension(_StrictField):
    target_class = "memory.api.fields.text.StrictCharField"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return text(self.target)


class CursorExtension(_StrictField):
    target_class = "memory.api.serializers.documents.Cursor"
    priority = 1

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return text(self.target) | {"pattern": patterns.BASE64URL}


class TextOrListExtension(_StrictField):
    target_class = "memory.api.fields.text.StringOrList"
    priority = 1

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return text_or_list(self.target)


class TextListExtension(_StrictField):
    target_class = "memory.api.fields.lists.StringList"
    priority = 2

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return text_or_list(self.target)["anyOf"][1]


class IntegerExtension(_StrictField):
    target_class = "memory.api.fields.scalars.StrictInteger"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return number(self.target, "integer")


class FloatExtension(_StrictField):
    target_class = "memory.api.fields.scalars.StrictFloat"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return number(self.target, "number")


class BooleanExtension(_StrictField):
    target_class = "memory.api.fields.scalars.StrictBoolean"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return {"type": "boolean"}


class TimestampExtension(_StrictField):
    target_class = "memory.api.fields.timestamp.Timestamp"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return {"type": "string", "format": "date-time", "pattern": patterns.DATE_TIME}


class MetadataExtension(_StrictField):
    target_class = "memory.api.fields.metadata.MetadataField"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> Schema:
        return {"$ref": "#/components/schemas/Metadata"}


class StrictSerializerExtension(OpenApiSerializerExtension):
    """A request body: its declared members, `user_id`, and no others."""

    target_class = "memory.api.fields.serializer.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: str) -> Schema:
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        words = FIELDS[type(self.target).__name__]
        schema["description"] = words[""]
        for name, member in schema["properties"].items():
            member["description"] = words[name]
        for name, field in self.target.fields.items():
            if isinstance(field, ListSerializer):
                schema["properties"][name] |= {"minItems": 1, "maxItems": conf.CHUNKS_PER_CALL_MAX}
        if alternatives := EXACTLY_ONE.get(type(self.target).__name__):
            schema["oneOf"] = [exactly(name, alternatives) for name in alternatives]
        for name in sorted(self.target.ignored_members):
            schema["properties"][name] = {"description": words.get(name) or FIELDS["*"][name]}
        schema["additionalProperties"] = False
        return schema
