"""The request bodies, as API.md's limits say; what comes out is what the services take."""

from __future__ import annotations

from rest_framework import serializers

from memory import conf
from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields import (
    MetadataField,
    StrictBoolean,
    StrictCharField,
    StrictFloat,
    StrictInteger,
    StrictSerializer,
    StringOrList,
    Timestamp,
)
from memory.indexing.write import DocumentDraft
from memory.retrieval.search import Filters
from memory.services.index import count_chunks
from memory.services.query import MemoryQuery


def _identifier(max_chars: int, **kwargs) -> StrictCharField:
    return StrictCharField(max_chars=max_chars, control_characters=False, **kwargs)


class MemoryIndexRequest(StrictSerializer):
    """One document. `chunked` in the validated data is what was counted here; the service reuses it."""

    doc_id = _identifier(conf.DOC_ID_MAX_CHARS, validators=[refuse_unaddressable])
    text = StrictCharField(max_bytes=conf.TEXT_MAX_BYTES)
    source = _identifier(conf.SOURCE_MAX_CHARS, default="api")
    thread_id = _identifier(conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)
    metadata = MetadataField(max_bytes=conf.METADATA_MAX_BYTES, max_depth=conf.METADATA_MAX_DEPTH, default=dict)
    created_at = Timestamp(default=None, allow_null=True)

    def validate_text(self, text: str) -> str:
        if not text.strip():
            raise serializers.ValidationError("The text is blank.", code="blank")
        return text

    def validate(self, attrs: dict) -> dict:
        return {"draft": DocumentDraft(**attrs), "chunked": count_chunks(attrs["text"])}


class MemoryQueryRequest(StrictSerializer):
    """A question; `candidates` and `rerank_pool` are raised to `top_k` where smaller."""

    query = StrictCharField(max_chars=conf.QUERY_MAX_CHARS)
    top_k = StrictInteger(min_value=1, max_value=conf.TOP_K_MAX, default=conf.TOP_K_DEFAULT)
    candidates = StrictInteger(min_value=1, max_value=conf.CANDIDATES_MAX, default=conf.CANDIDATES_DEFAULT)
    rerank_pool = StrictInteger(min_value=1, max_value=conf.RERANK_POOL_MAX, default=None, allow_null=True)
    rerank = StrictBoolean(default=True)
    source = StringOrList(max_items=conf.FILTER_VALUES_MAX, max_chars=conf.SOURCE_MAX_CHARS, default=list)
    doc_id = StringOrList(max_items=conf.FILTER_VALUES_MAX, max_chars=conf.DOC_ID_MAX_CHARS, default=list)
    thread_id = _identifier(conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)
    since = Timestamp(default=None, allow_null=True)
    until = Timestamp(default=None, allow_null=True)
    half_life_days = StrictFloat(min_value=0.01, max_value=36_500, default=None, allow_null=True)
    decay_weight = StrictFloat(min_value=0, max_value=1, default=None, allow_null=True)
    min_score = StrictFloat(min_value=0, max_value=1, default=None, allow_null=True)

    def validate(self, attrs: dict) -> MemoryQuery:
        return MemoryQuery(
            text=attrs["query"],
            top_k=attrs["top_k"],
            candidates=max(attrs["candidates"], attrs["top_k"]),
            rerank_pool=attrs["rerank_pool"],
            rerank=attrs["rerank"],
            filters=Filters(
                sources=tuple(attrs["source"]),
                doc_ids=tuple(attrs["doc_id"]),
                thread_id=attrs["thread_id"],
                since=attrs["since"],
                until=attrs["until"],
            ),
            half_life_days=attrs["half_life_days"],
            decay_weight=attrs["decay_weight"],
            min_score=attrs["min_score"],
        )
