"""What a document's id may be: one rule for ids that are sent, and for ids that metadata names."""

from __future__ import annotations

import re
from typing import Any

from memory.limits import DOC_ID_MAX_CHARS

CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f]")


def is_doc_id(value: Any) -> bool:
    """Whether a document can be stored under this JSON value."""
    return (
        isinstance(value, str)
        and 1 <= len(value) <= DOC_ID_MAX_CHARS
        and is_storable_text(value)
        and not CONTROL_CHARACTERS.search(value)
        and is_addressable(value)
    )


def is_addressable(doc_id: str) -> bool:
    """Whether an id can stand in a path: no empty and no dot segments, which proxies fold away."""
    return not any(segment in ("", ".", "..") for segment in doc_id.split("/"))


def is_storable_text(text: str) -> bool:
    """Whether PostgreSQL can hold `text` and UTF-8 can encode it: no NUL, no lone surrogate."""
    return "\x00" not in text and utf8_bytes(text) is not None


def utf8_bytes(text: str) -> int | None:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None
