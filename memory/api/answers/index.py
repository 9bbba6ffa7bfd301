"""What POST /memory/index answers."""

from __future__ import annotations

from memory.services.index import IndexedDocument


def indexed_document(document: IndexedDocument) -> dict:
    """One document of an index answer."""
    return {
        "doc_id": document.doc_id,
        "chunks": len(document.chunk_ids),
        "chunk_ids": [str(chunk_id) for chunk_id in document.chunk_ids],
        "replaced": document.replaced,
        "took_ms": document.took_ms,
    }
