"""What POST /memory/index answers."""

from __future__ import annotations

from rest_framework.renderers import JSONRenderer

from memory.services.idempotency import RenderedAnswer
from memory.services.index import IndexedBatch, IndexedDocument


def indexed(batch: IndexedBatch, *, is_batch: bool) -> RenderedAnswer:
    """The answer to one document or to several: 201 if any is new."""
    answer = _indexed_documents(batch) if is_batch else _indexed_document(batch)
    is_new = not all(document.replaced for document in batch.documents)
    return RenderedAnswer(201 if is_new else 200, JSONRenderer().render(answer))


def _indexed_document(batch: IndexedBatch) -> dict:
    return {**_document(batch.documents[0]), "took_ms": batch.took_ms}


def _indexed_documents(batch: IndexedBatch) -> dict:
    return {
        "documents": [_document(document) for document in batch.documents],
        "chunks": sum(len(document.chunk_ids) for document in batch.documents),
        "took_ms": batch.took_ms,
    }


def _document(document: IndexedDocument) -> dict:
    return {
        "doc_id": document.doc_id,
        "chunks": len(document.chunk_ids),
        "chunk_ids": [str(chunk_id) for chunk_id in document.chunk_ids],
        "replaced": document.replaced,
    }
