"""What POST /memory/index answers."""

from __future__ import annotations

from memory.services.index import IndexedBatch, IndexedDocument


def status_of(batch: IndexedBatch) -> int:
    """201 if any document is new."""
    return 200 if all(document.replaced for document in batch.documents) else 201


def indexed_document(batch: IndexedBatch) -> dict:
    """The answer to one document."""
    return {**_document(batch.documents[0]), "took_ms": batch.took_ms}


def indexed_documents(batch: IndexedBatch) -> dict:
    """The answer to several."""
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
