"""What POST /memory/index answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from memory import limits as conf
from memory.api.responses.body import About, ListOf, Member, itself
from memory.api.shapes import CHUNK_IDS, boolean, doc_id, integer, took_ms
from memory.services.index import IndexedBatch, IndexedDocument

T = TypeVar("T")
_TOOK_MS: Member[IndexedBatch] = Member("took_ms", took_ms("chunk", "embed", "seal", "store", "total"))


def _members(document_of: Callable[[T], IndexedDocument]) -> tuple[Member[T], ...]:
    """What is said of one document, in a body about what `document_of` finds it in."""
    return (
        Member("doc_id", doc_id(), lambda subject: document_of(subject).doc_id),
        Member(
            "chunks",
            integer("How many chunks it made.", minimum=1, maximum=conf.CHUNKS_PER_CALL_MAX),
            lambda subject: len(document_of(subject).chunk_ids),
        ),
        Member("chunk_ids", CHUNK_IDS, lambda subject: [str(chunk_id) for chunk_id in document_of(subject).chunk_ids]),
        Member(
            "replaced",
            boolean("Whether an earlier version was there."),
            lambda subject: document_of(subject).replaced,
        ),
    )


def _only(batch: IndexedBatch) -> IndexedDocument:
    return batch.documents[0]


INDEX_ANSWER = About(IndexedBatch).body(
    "MemoryIndexAnswer",
    "What became of one document.",
    *_members(_only),
    _TOOK_MS,
)
INDEX_BATCH_ANSWER = About(IndexedBatch).body(
    "MemoryIndexBatchAnswer",
    "What became of several documents.",
    Member(
        "documents",
        ListOf(
            About(IndexedDocument).part("What became of one.", *_members(itself)),
            "As they were sent.",
            minItems=1,
            maxItems=conf.CHUNKS_PER_CALL_MAX,
        ),
    ),
    Member(
        "chunks",
        integer("How many chunks they made together.", minimum=1, maximum=conf.CHUNKS_PER_CALL_MAX),
        lambda batch: sum(len(document.chunk_ids) for document in batch.documents),
    ),
    _TOOK_MS,
)


def status_of(batch: IndexedBatch) -> int:
    """201 if any document is new."""
    return 200 if all(document.replaced for document in batch.documents) else 201


def indexed_document(batch: IndexedBatch) -> dict[str, Any]:
    """The answer to one document."""
    return INDEX_ANSWER.render(batch)


def indexed_documents(batch: IndexedBatch) -> dict[str, Any]:
    """The answer to several."""
    return INDEX_BATCH_ANSWER.render(batch)
