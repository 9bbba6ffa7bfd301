"""The body of POST /stream."""

from __future__ import annotations

from memory import limits as conf
from memory.api.fields import StrictBoolean, StrictCharField, StrictInteger
from memory.api.serializers.filters import FilteredRequest, filters_of
from memory.services.stream import StreamedQuestion


class MemoryStreamRequest(FilteredRequest):
    """A message, and whether memory is asked for passages about it."""

    message = StrictCharField(max_chars=conf.QUERY_MAX_CHARS)
    top_k = StrictInteger(min_value=1, max_value=conf.TOP_K_MAX, default=conf.TOP_K_DEFAULT)
    memory = StrictBoolean(default=True)

    def validate(self, attrs: dict) -> StreamedQuestion:
        return StreamedQuestion(
            message=attrs["message"],
            top_k=attrs["top_k"],
            memory=attrs["memory"],
            filters=filters_of(attrs),
            min_score=attrs["min_score"],
        )
