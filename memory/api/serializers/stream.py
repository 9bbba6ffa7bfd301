"""The body of POST /stream."""

from __future__ import annotations

from memory import limits as conf
from memory.api.fields import Identifier, StrictBoolean, StrictCharField, StrictInteger, StrictSerializer
from memory.services.stream import StreamedQuestion


class MemoryStreamRequest(StrictSerializer):
    """A message, and whether memory is asked for passages about it."""

    message = StrictCharField(max_chars=conf.QUERY_MAX_CHARS)
    top_k = StrictInteger(min_value=1, max_value=conf.TOP_K_MAX, default=conf.TOP_K_DEFAULT)
    memory = StrictBoolean(default=True)
    thread_id = Identifier(max_chars=conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)

    def validate(self, attrs: dict) -> StreamedQuestion:
        return StreamedQuestion(**attrs)
