"""Serializer fields that take a JSON value for what it is: nothing is converted, trimmed or normalised.

A `"3"` is no integer, `true` is no number, `" a "` keeps its spaces. What is refused could not be
stored (NUL and lone surrogates, in PostgreSQL text and UTF-8), told apart, or given back as sent.
Limits are parameters; messages are fixed sentences that never repeat the value.
"""

from memory.api.fields.metadata import MetadataField
from memory.api.fields.scalars import StrictBoolean, StrictFloat, StrictInteger
from memory.api.fields.serializer import StrictSerializer
from memory.api.fields.text import Identifier, StrictCharField, StringOrList
from memory.api.fields.timestamp import Timestamp, rfc3339

__all__ = [
    "Identifier",
    "MetadataField",
    "StrictBoolean",
    "StrictCharField",
    "StrictFloat",
    "StrictInteger",
    "StrictSerializer",
    "StringOrList",
    "Timestamp",
    "rfc3339",
]
