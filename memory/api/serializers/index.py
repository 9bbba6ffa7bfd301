"""The body of POST /memory/index."""

from __future__ import annotations

from rest_framework import serializers

from memory import conf
from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields import Identifier, MetadataField, StrictCharField, StrictSerializer, Timestamp
from memory.indexing.write import DocumentDraft
from memory.services.index import count_chunks


class MemoryIndexRequest(StrictSerializer):
    """One document. `chunked` in the validated data is what was counted here; the service reuses it."""

    doc_id = Identifier(max_chars=conf.DOC_ID_MAX_CHARS, validators=[refuse_unaddressable])
    text = StrictCharField(max_bytes=conf.TEXT_MAX_BYTES)
    source = Identifier(max_chars=conf.SOURCE_MAX_CHARS, default="api")
    thread_id = Identifier(max_chars=conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)
    metadata = MetadataField(max_bytes=conf.METADATA_MAX_BYTES, max_depth=conf.METADATA_MAX_DEPTH, default=dict)
    created_at = Timestamp(default=None, allow_null=True)

    def validate_text(self, text: str) -> str:
        if not text.strip():
            raise serializers.ValidationError("The text is blank.", code="blank")
        return text

    def validate(self, attrs: dict) -> dict:
        return {"draft": DocumentDraft(**attrs), "chunked": count_chunks(attrs["text"])}
