"""The body of POST /memory/query."""

from __future__ import annotations

from rest_framework.exceptions import ErrorDetail, ValidationError

from memory import limits as conf
from memory.api.fields import Identifier, StrictBoolean, StrictCharField, StrictFloat, StrictInteger, Timestamp
from memory.api.serializers.filters import FilteredRequest, filters_of
from memory.services.query import MemoryQuery


class MemoryQueryRequest(FilteredRequest):
    """A question; `candidates` and `rerank_pool` are raised to `top_k` where smaller.

    An answer holds PASSAGES_MAX passages at most, its results with what stands beside them.
    """

    query = StrictCharField(max_chars=conf.QUERY_MAX_CHARS)
    top_k = StrictInteger(min_value=1, max_value=conf.TOP_K_MAX, default=conf.TOP_K_DEFAULT)
    candidates = StrictInteger(min_value=1, max_value=conf.CANDIDATES_MAX, default=conf.CANDIDATES_DEFAULT)
    rerank_pool = StrictInteger(min_value=1, max_value=conf.RERANK_POOL_MAX, default=None, allow_null=True)
    rerank = StrictBoolean(default=True)
    context = StrictBoolean(default=True)  # type: ignore[assignment]
    speaker = Identifier(max_chars=conf.SPEAKER_MAX_CHARS, default=None, allow_null=True)
    now = Timestamp(default=None, allow_null=True)
    half_life_days = StrictFloat(min_value=0.01, max_value=36_500, default=None, allow_null=True)
    decay_weight = StrictFloat(min_value=0, max_value=1, default=None, allow_null=True)
    min_vector = StrictFloat(min_value=0, max_value=1, default=None, allow_null=True)
    surroundings = StrictInteger(min_value=0, max_value=conf.SURROUNDINGS_MAX, default=0)

    def validate(self, attrs: dict) -> MemoryQuery:
        passages = attrs["top_k"] * (1 + 2 * attrs["surroundings"])
        if passages > conf.PASSAGES_MAX:
            detail = f"With top_k {attrs['top_k']} up to {passages} passages; an answer holds {conf.PASSAGES_MAX}."
            raise ValidationError({"surroundings": [ErrorDetail(detail, code="max_value")]})
        return MemoryQuery(
            text=attrs["query"],
            top_k=attrs["top_k"],
            candidates=max(attrs["candidates"], attrs["top_k"]),
            rerank_pool=attrs["rerank_pool"],
            rerank=attrs["rerank"],
            filters=filters_of(attrs),
            half_life_days=attrs["half_life_days"],
            decay_weight=attrs["decay_weight"],
            min_score=attrs["min_score"],
            min_vector=attrs["min_vector"],
            context=attrs["context"],
            speaker=attrs["speaker"],
            now=attrs["now"],
            surroundings=attrs["surroundings"],
        )
