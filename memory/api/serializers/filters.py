"""What a question's body may narrow the passages to, in a query and in a stream alike."""

from __future__ import annotations

from typing import Any

from memory import limits as conf
from memory.api.fields import Identifier, StrictFloat, StrictSerializer, StringOrList, Timestamp
from memory.retrieval.filters import Filters


class FilteredRequest(StrictSerializer):
    """A question whose passages are narrowed to documents of these sources, ids, thread and time, and by score."""

    source = StringOrList(max_items=conf.FILTER_VALUES_MAX, max_chars=conf.SOURCE_MAX_CHARS, default=list)  # type: ignore[assignment]
    doc_id = StringOrList(max_items=conf.FILTER_VALUES_MAX, max_chars=conf.DOC_ID_MAX_CHARS, default=list)
    thread_id = Identifier(max_chars=conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)
    since = Timestamp(default=None, allow_null=True)
    until = Timestamp(default=None, allow_null=True)
    min_score = StrictFloat(min_value=0, max_value=1, default=None, allow_null=True)


def filters_of(attrs: dict[str, Any]) -> Filters:
    """The filters that validated fields of a FilteredRequest ask for."""
    return Filters(
        sources=tuple(attrs["source"]),
        doc_ids=tuple(attrs["doc_id"]),
        thread_id=attrs["thread_id"],
        since=attrs["since"],
        until=attrs["until"],
    )
