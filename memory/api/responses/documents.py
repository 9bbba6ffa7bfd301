"""What the documents answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memory.api.fields import rfc3339
from memory.api.responses.body import About, ListOf, Member
from memory.api.serializers.documents import LIMIT_MAX
from memory.api.shapes import (
    CHUNK_IDS,
    array,
    doc_id,
    expiry,
    integer,
    moment,
    or_null,
    ref,
    sequence,
    source,
    speaker,
    string,
    thread_id,
)
from memory.services.documents import StoredDocument
from memory.services.listing import DocumentPage, ListedDocument

_CREATED_AT = moment("When the text came to be.")
_UPDATED_AT = moment("When this version was stored.")

STORED_DOCUMENT = About(StoredDocument).body(
    "StoredDocument",
    "A document read back.",
    Member("doc_id", doc_id()),
    Member("source", source()),
    Member("thread_id", thread_id()),
    Member("sequence", sequence(), unless=0),
    Member("speaker", speaker(), unless=None),
    Member("text", string("The text, exactly as it was sent.")),
    Member("metadata", ref("Metadata")),
    Member("chunks", integer("How many chunks it has.", minimum=1), lambda document: len(document.chunk_ids)),
    Member("chunk_ids", CHUNK_IDS, lambda document: [str(chunk_id) for chunk_id in document.chunk_ids]),
    Member("created_at", _CREATED_AT, lambda document: rfc3339(document.created_at)),
    Member("updated_at", _UPDATED_AT, lambda document: rfc3339(document.updated_at)),
    Member("expires_at", expiry(), lambda document: document.expires_at and rfc3339(document.expires_at), unless=None),
)
LISTED_DOCUMENT = About(ListedDocument).body(
    "ListedDocument",
    "What is known of a document without opening its text.",
    Member("doc_id", doc_id()),
    Member("source", source()),
    Member("thread_id", thread_id()),
    Member("sequence", sequence(), unless=0),
    Member("speaker", speaker(), unless=None),
    Member("chunks", integer("How many chunks it has.", minimum=1)),
    Member("chars", integer("How many characters its text has.", minimum=1)),
    Member("derived_from", array(string(), "The documents it was made from, such as those a summary covers.")),
    Member("created_at", _CREATED_AT, lambda document: rfc3339(document.created_at)),
    Member("updated_at", _UPDATED_AT, lambda document: rfc3339(document.updated_at)),
    Member("expires_at", expiry(), lambda document: document.expires_at and rfc3339(document.expires_at), unless=None),
)
DOCUMENT_PAGE = About(DocumentPage).body(
    "DocumentPage",
    "Some of the user's documents, newest first.",
    Member("results", ListOf(LISTED_DOCUMENT, maxItems=LIMIT_MAX), lambda page: page.documents),
    Member("next", or_null(string("The address of the page of older ones.", format="uri"))),
    Member("previous", or_null(string("The address of the page of newer ones.", format="uri"))),
)


def stored_document(document: StoredDocument) -> dict[str, Any]:
    """One document read back."""
    return STORED_DOCUMENT.render(document)


def document_page(page: DocumentPage, address_of: Callable[[str], str]) -> dict[str, Any]:
    """A page of the listing; `address_of(cursor)` is the absolute URL of the page at that cursor."""
    addressed = replace(
        page, next=page.next and address_of(page.next), previous=page.previous and address_of(page.previous)
    )
    return DOCUMENT_PAGE.render(addressed)
