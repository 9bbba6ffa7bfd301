"""Strings, and lists of them."""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import ValidationError

from memory.api.fields.base import StrictField
from memory.formats.doc_ids import CONTROL_CHARACTERS, utf8_bytes


class StrictCharField(StrictField):
    """A string of `min_chars` to `max_chars` characters and at most `max_bytes` bytes of UTF-8, as sent.

    NUL and lone surrogates are always refused; with `control_characters=False`, for identifiers,
    so are all of category Cc (C0, DEL and C1).
    """

    default_error_messages = {
        "invalid": "Not a valid string.",
        "unstorable": "NUL characters and lone surrogates are not allowed.",
        "control_characters": "Control characters are not allowed.",
        "min_length": "At least {limit} character(s).",
        "max_length": "At most {limit} characters.",
        "max_bytes": "At most {limit} bytes of UTF-8.",
    }

    def __init__(
        self,
        *,
        min_chars: int = 1,
        max_chars: int | None = None,
        max_bytes: int | None = None,
        control_characters: bool = True,
        **kwargs: Any,
    ):
        self.min_chars = min_chars
        self.max_chars = max_chars
        self.max_bytes = max_bytes
        self.control_characters = control_characters
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if len(data) < self.min_chars:
            self.fail("min_length", limit=self.min_chars)
        if self.max_chars is not None and len(data) > self.max_chars:
            self.fail("max_length", limit=self.max_chars)
        size_bytes = utf8_bytes(data)
        if size_bytes is None or "\x00" in data:
            self.refuse("unstorable")
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            self.fail("max_bytes", limit=self.max_bytes)
        if not self.control_characters and CONTROL_CHARACTERS.search(data):
            self.refuse("control_characters")
        return data


class Identifier(StrictCharField):
    """A name without control characters: a document, a source, a thread."""

    def __init__(self, *, max_chars: int, **kwargs: Any):
        super().__init__(max_chars=max_chars, control_characters=False, **kwargs)


class StringOrList(StrictCharField):
    """One string, or a list of 1 to `max_items` strings under the same limits; the value is a list of strings."""

    default_error_messages = {
        "invalid": "Not a valid string or list of strings.",
        "min_items": "At least one item.",
        "max_items": "At most {limit} items.",
    }

    def __init__(self, *, max_items: int = 100, **kwargs: Any):
        self.max_items = max_items
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> list[str]:  # type: ignore[override]
        if not isinstance(data, list):
            return [super().to_internal_value(data)]
        if not data:
            self.fail("min_items")
        if len(data) > self.max_items:
            self.fail("max_items", limit=self.max_items)
        errors: dict[int, Any] = {}
        for index, item in enumerate(data):
            try:
                super().to_internal_value(item)
            except ValidationError as refusal:
                errors[index] = refusal.detail
        if errors:
            raise ValidationError(errors)  # type: ignore[arg-type]  # DRF's own lists have integers for keys too
        return data
