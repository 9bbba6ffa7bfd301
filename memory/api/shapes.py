"""Small words for JSON Schemas, so that what is said of a body reads as the body does."""

from __future__ import annotations

from typing import Any

from memory import limits as conf
from memory.api import patterns

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def obj(description: str, members: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object whose members are all there but the `optional` ones."""
    return {
        "type": "object",
        "description": description,
        "properties": members,
        "required": [name for name in members if name not in optional],
    }


def string(description: str = "", **limits: Any) -> Schema:
    return _described({"type": "string", **limits}, description)


def integer(description: str = "", **limits: Any) -> Schema:
    return _described({"type": "integer", "minimum": 0, **limits}, description)


def number(description: str = "", **limits: Any) -> Schema:
    return _described({"type": "number", **limits}, description)


def boolean(description: str = "") -> Schema:
    return _described({"type": "boolean"}, description)


def array(items: Schema, description: str = "", **limits: Any) -> Schema:
    return _described({"type": "array", "items": items, **limits}, description)


def any_names(description: str, values: Schema, **limits: Any) -> Schema:
    """An object of any names, each with one of `values`."""
    return {"type": "object", "description": description, "additionalProperties": values, **limits}


def or_null(schema: Schema) -> Schema:
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    nullable = schema | {"type": [schema["type"], "null"]}
    if "enum" in schema:
        nullable["enum"] = [*schema["enum"], None]
    return nullable


def moment(description: str = "") -> Schema:
    return string(description, format="date-time", pattern=patterns.UTC_DATE_TIME)


def uuid(description: str = "") -> Schema:
    return string(description, format="uuid", pattern=patterns.UUID)


def score(description: str = "") -> Schema:
    return number(description, minimum=0, maximum=1)


def doc_id(description: str = "The product's own id of the document.") -> Schema:
    return string(description, minLength=1, maxLength=conf.DOC_ID_MAX_CHARS)


def source() -> Schema:
    return string("Where the document is from.", minLength=1, maxLength=conf.SOURCE_MAX_CHARS)


def thread_id() -> Schema:
    return or_null(string("The conversation it belongs to.", minLength=1, maxLength=conf.THREAD_ID_MAX_CHARS))


def sequence() -> Schema:
    return integer("Its place among those of one time in its thread, as it was sent.", maximum=conf.SEQUENCE_MAX)


def expiry() -> Schema:
    return moment("From when on nobody sees it any more.")


def speaker() -> Schema:
    return string("The name of whoever said it.", minLength=1, maxLength=conf.SPEAKER_MAX_CHARS)


def took_ms(*stages: str, optional: tuple[str, ...] = ()) -> Schema:
    """Milliseconds by stage."""
    laps = {stage: number(minimum=0) for stage in stages}
    return obj("Milliseconds the service spent, by stage.", laps, optional=optional)


def _described(schema: Schema, description: str) -> Schema:
    return {"description": description, **schema} if description else schema


CHUNK_IDS = array(uuid(), "The ids of its chunks, in order.", maxItems=conf.CHUNKS_PER_CALL_MAX)
