"""What the documents answer."""

from __future__ import annotations

from memory.api.fields import rfc3339
from memory.services.documents import StoredDocument


def stored_document(document: StoredDocument) -> dict:
    """One document read back."""
    return {
        "doc_id": document.doc_id,
        "source": document.source,
        "thread_id": document.thread_id,
        "text": document.text,
        "metadata": document.metadata,
        "chunks": len(document.chunk_ids),
        "chunk_ids": [str(chunk_id) for chunk_id in document.chunk_ids],
        "created_at": rfc3339(document.created_at),
        "updated_at": rfc3339(document.updated_at),
    }
