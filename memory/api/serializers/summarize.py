"""The body of POST /memory/summarize."""

from __future__ import annotations

from memory import limits as conf
from memory.api.fields import Identifier, StrictBoolean, StrictCharField, StrictInteger, StrictSerializer
from memory.api.fields.lists import StringList
from memory.api.serializers.alternatives import exactly_one
from memory.services.summary import SummaryScope


class MemorySummaryRequest(StrictSerializer):
    """What to summarise, named in one way; the validated data is what `summarize_memory` takes."""

    doc_ids = StringList(
        max_items=conf.SUMMARY_DOC_IDS_MAX,
        max_chars=conf.DOC_ID_MAX_CHARS,
        control_characters=False,
        default=None,
        allow_null=True,
    )
    thread_id = Identifier(max_chars=conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)
    source = Identifier(max_chars=conf.SOURCE_MAX_CHARS, default=None, allow_null=True)  # type: ignore[assignment]
    query = StrictCharField(max_chars=conf.QUERY_MAX_CHARS, default=None, allow_null=True)
    max_sentences = StrictInteger(
        min_value=1, max_value=conf.SUMMARY_SENTENCES_MAX, default=conf.SUMMARY_SENTENCES_DEFAULT
    )
    store = StrictBoolean(default=True)

    def validate(self, attrs: dict) -> dict:
        kind = exactly_one(attrs, "doc_ids", "thread_id", "source", "query")
        value = tuple(sorted(set(attrs[kind]))) if kind == "doc_ids" else attrs[kind]
        scope = SummaryScope(kind, value)
        return {"scope": scope, "max_sentences": attrs["max_sentences"], "store": attrs["store"]}
