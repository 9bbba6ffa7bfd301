"""What the documents answer."""

from __future__ import annotations

from collections.abc import Callable

from memory.api.fields import rfc3339
from memory.services.documents import StoredDocument
from memory.services.listing import DocumentPage, ListedDocument


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


def document_page(page: DocumentPage, address_of: Callable[[str], str]) -> dict:
    """A page of the listing; `address_of(cursor)` is the absolute URL of the page at that cursor."""
    return {
        "results": [_listed(document) for document in page.documents],
        "next": page.next and address_of(page.next),
        "previous": page.previous and address_of(page.previous),
    }


def _listed(document: ListedDocument) -> dict:
    return {
        "doc_id": document.doc_id,
        "source": document.source,
        "thread_id": document.thread_id,
        "chunks": document.chunks,
        "chars": document.chars,
        "derived_from": document.derived_from,
        "created_at": rfc3339(document.created_at),
        "updated_at": rfc3339(document.updated_at),
    }
