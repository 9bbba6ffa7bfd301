"""What the operations answer with, as components. One file a tag."""

from __future__ import annotations

from memory.api.schema.answers import documents, memory, operational, stream
from memory.api.shapes import Schema

ANSWERS: dict[str, Schema] = {**memory.ANSWERS, **documents.ANSWERS, **operational.ANSWERS, **stream.ANSWERS}
