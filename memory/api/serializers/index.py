"""The bodies of POST /memory/index: one document, or several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from memory import limits as conf
from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields import (
    Identifier,
    MetadataField,
    StrictCharField,
    StrictInteger,
    StrictSerializer,
    Timestamp,
    rfc3339,
)
from memory.errors import FieldError, InvalidInput, TooManyChunks
from memory.indexing.derived import DERIVED_FROM, derived_from
from memory.indexing.seal import DocumentDraft


@dataclass(frozen=True)
class IndexRequest:
    """What either body comes to."""

    drafts: list[DocumentDraft]
    is_batch: bool

    @property
    def field(self) -> str:
        """What is at fault where the texts make too many chunks."""
        return "documents" if self.is_batch else "text"

    def canonical(self) -> bytes:
        """The request with nothing left of how it was written: two of one meaning have the same bytes.

        Defaults are filled in, times are in UTC, names are sorted at every level; spaces, escapes and the order of
        names do not matter, that of documents does, and one document is not a list of one. JSON, UTF-8.
        """
        documents = [_canonical(draft) for draft in self.drafts]
        request = {"documents": documents} if self.is_batch else documents[0]
        return json.dumps(request, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _canonical(draft: DocumentDraft) -> dict[str, Any]:
    document: dict[str, Any] = {
        "doc_id": draft.doc_id,
        "source": draft.source,
        "text": draft.text,
        "thread_id": draft.thread_id,
        "metadata": draft.metadata,
        "created_at": draft.created_at and rfc3339(draft.created_at),
    }
    # Left out where they say nothing: a request that was sent before they were there has the bytes that it had.
    if draft.sequence:
        document["sequence"] = draft.sequence
    if draft.speaker is not None:
        document["speaker"] = draft.speaker
    if draft.expires_at is not None:
        document["expires_at"] = rfc3339(draft.expires_at)
    return document


class MemoryIndexDocument(StrictSerializer):
    """One document."""

    doc_id = Identifier(max_chars=conf.DOC_ID_MAX_CHARS, validators=[refuse_unaddressable])
    text = StrictCharField(max_bytes=conf.TEXT_MAX_BYTES)
    source = Identifier(max_chars=conf.SOURCE_MAX_CHARS, default="api")  # type: ignore[assignment]
    thread_id = Identifier(max_chars=conf.THREAD_ID_MAX_CHARS, default=None, allow_null=True)
    sequence = StrictInteger(min_value=0, max_value=conf.SEQUENCE_MAX, default=0)
    speaker = Identifier(max_chars=conf.SPEAKER_MAX_CHARS, default=None, allow_null=True)
    metadata = MetadataField(
        max_bytes=conf.METADATA_MAX_BYTES,
        max_depth=conf.METADATA_MAX_DEPTH,
        max_names=conf.METADATA_MAX_NAMES,
        default=dict,
    )
    created_at = Timestamp(default=None, allow_null=True)
    expires_at = Timestamp(default=None, allow_null=True)

    def validate_text(self, text: str) -> str:
        if not text.strip():
            raise serializers.ValidationError("The text is blank.", code="blank")
        return text

    def validate(self, attrs: dict) -> Any:
        try:
            derived_from(attrs["source"], attrs["metadata"], attrs["doc_id"])
        except InvalidInput as refused:
            errors = [ErrorDetail(error.detail, error.code) for error in refused.errors]
            raise ValidationError({"metadata": {DERIVED_FROM: errors}}) from None
        return DocumentDraft(**attrs)


class MemoryIndexRequest(MemoryIndexDocument):
    """One document; the validated data is an IndexRequest."""

    def validate(self, attrs: dict) -> IndexRequest:
        draft = super().validate(attrs)
        return IndexRequest([draft], is_batch=False)


class MemoryIndexBatchRequest(StrictSerializer):
    """Several documents, each with an id of its own; the validated data is an IndexRequest."""

    documents = MemoryIndexDocument(many=True, allow_empty=False)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        documents = data.get("documents") if isinstance(data, Mapping) else None
        # Each makes a chunk at least, so these are refused without looking at them one by one.
        if isinstance(documents, list) and len(documents) > conf.CHUNKS_PER_CALL_MAX:
            detail = (
                f"The {len(documents)} documents make at least as many chunks; "
                f"one call may store {conf.CHUNKS_PER_CALL_MAX}."
            )
            raise TooManyChunks([FieldError("documents", TooManyChunks.code, detail)], detail)
        return super().to_internal_value(data)

    def validate_documents(self, drafts: list[DocumentDraft]) -> list[DocumentDraft]:
        seen: set[str] = set()
        repeated = {}
        for index, draft in enumerate(drafts):
            if draft.doc_id in seen:
                again = ErrorDetail("An earlier document of this call has the same id.", code="duplicate")
                repeated[index] = {"doc_id": [again]}
            seen.add(draft.doc_id)
        if repeated:
            raise ValidationError(repeated)  # type: ignore[arg-type]  # DRF's own lists have integers for keys too
        return drafts

    def validate(self, attrs: dict) -> IndexRequest:
        return IndexRequest(attrs["documents"], is_batch=True)


def index_request(data: Any) -> IndexRequest:
    """The request that a parsed body is; with `documents` it is several. Raises ValidationError, TooManyChunks."""
    is_batch = isinstance(data, Mapping) and "documents" in data
    return (MemoryIndexBatchRequest if is_batch else MemoryIndexRequest).read(data)
