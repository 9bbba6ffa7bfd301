"""The product's own JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from memory.api.fields.base import StrictField
from memory.formats.doc_ids import is_storable_text, utf8_bytes

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


class MetadataField(StrictField):
    """A JSON object that comes back exactly as it was sent.

    At most `max_bytes` as compact UTF-8 JSON, nested at most `max_depth` levels, itself the first, with at most
    `max_names` names in its objects together; levels and names are looked at before anything else is done with it.
    Integers fit 64 bits signed: they come back exact here, while a client that reads numbers as
    doubles (RFC 8259, section 6) keeps only those up to 2**53. Floats are finite.
    """

    default_error_messages = {
        "invalid": "Not a valid JSON object.",
        "unstorable": "NUL characters and lone surrogates are not allowed.",
        "max_bytes": "At most {limit} bytes as compact JSON.",
        "max_names": "At most {limit} names in all objects together.",
        "max_depth": "At most {limit} levels.",
        "number": "Integers must fit 64 bits, other numbers must be finite.",
    }

    def __init__(self, *, max_bytes: int = 64 * 1024, max_depth: int = 8, max_names: int = 2_000, **kwargs: Any):
        self.max_bytes = max_bytes
        self.max_depth = max_depth
        self.max_names = max_names
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail("invalid")
        names = 0
        for depth, value in _walk(data):
            if depth > self.max_depth and isinstance(value, dict | list):
                self.fail("max_depth", limit=self.max_depth)
            names += len(value) if isinstance(value, dict) else 0
            if names > self.max_names:
                self.fail("max_names", limit=self.max_names)
        try:
            compact = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError):
            self.fail("invalid")
        size_bytes = utf8_bytes(compact)
        if size_bytes is None:
            self.refuse("unstorable")
        if size_bytes > self.max_bytes:
            self.fail("max_bytes", limit=self.max_bytes)
        for _, value in _walk(data):
            self._check(value)
        return data

    def _check(self, value: Any) -> None:
        if isinstance(value, dict):
            for name in value:
                if not isinstance(name, str):
                    self.fail("invalid")
                if not is_storable_text(name):
                    self.refuse("unstorable")
        elif isinstance(value, str):
            if not is_storable_text(value):
                self.refuse("unstorable")
        elif isinstance(value, int | float) and not _is_exact(value):
            self.refuse("number")


def _is_exact(number: int | float) -> bool:
    return INT64_MIN <= number <= INT64_MAX if isinstance(number, int) else math.isfinite(number)


def _walk(root: Any) -> Iterator[tuple[int, Any]]:
    """Every value under `root` with the number of containers around it, itself counted."""
    pending = [(1, root)]
    while pending:
        depth, value = pending.pop()
        yield depth, value
        if isinstance(value, dict):
            pending.extend((depth + 1, child) for child in value.values())
        elif isinstance(value, list):
            pending.extend((depth + 1, child) for child in value)
