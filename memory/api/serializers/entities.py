"""The body of POST /memory/entities."""

from __future__ import annotations

from rest_framework import serializers

from memory import limits as conf
from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields import Identifier, StrictCharField, StrictSerializer
from memory.api.fields.lists import StringList
from memory.api.serializers.alternatives import exactly_one
from memory.retrieval.chunks import ChunkScope


class MemoryEntityRequest(StrictSerializer):
    """A text, a stored document or a thread. Validated, `text` and `scope` are there, one of them None.

    A text has the limits of one that is indexed; the service looks at its chunks.
    """

    text = StrictCharField(max_bytes=conf.TEXT_MAX_BYTES, default=None, allow_null=True)
    doc_id = Identifier(
        max_chars=conf.DOC_ID_MAX_CHARS, validators=[refuse_unaddressable], default=None, allow_null=True
    )
    thread_id = Identifier(max_chars=conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)
    labels = StringList(
        max_items=conf.LABELS_MAX, max_chars=conf.LABEL_MAX_CHARS, control_characters=False, default=list
    )

    def validate_text(self, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise serializers.ValidationError("The text is blank.", code="blank")
        return text

    def validate(self, attrs: dict) -> dict:
        kind = exactly_one(attrs, "text", "doc_id", "thread_id")
        scope = None
        if kind == "doc_id":
            # A document is what it is, and damage in it an error; of a thread's, summaries are not its own words.
            scope = ChunkScope(doc_ids=(attrs["doc_id"],), summaries=True, quarantined=True)
        elif kind == "thread_id":
            scope = ChunkScope(thread_id=attrs["thread_id"], quarantined=True)
        return {"text": attrs["text"], "scope": scope, "labels": attrs["labels"]}
