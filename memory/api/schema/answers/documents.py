"""What is remembered."""

from __future__ import annotations

from memory.api.patterns import BASE64URL
from memory.api.serializers.documents import LIMIT_MAX
from memory.api.shapes import (
    CHUNK_IDS,
    Schema,
    array,
    boolean,
    doc_id,
    integer,
    moment,
    obj,
    or_null,
    ref,
    source,
    string,
    thread_id,
)
from memory.services.stats import SOURCES_MAX

_RATE = or_null(
    obj(
        "One of the user's rates.",
        {
            "limit": integer("How many tokens refill in `period_seconds`.", minimum=1),
            "period_seconds": integer(minimum=1),
            "remaining": integer("How many tokens there are now."),
        },
    )
)

ANSWERS: dict[str, Schema] = {
    "StoredDocument": obj(
        "A document read back.",
        {
            "doc_id": doc_id(),
            "source": source(),
            "thread_id": thread_id(),
            "text": string("The text, exactly as it was sent."),
            "metadata": ref("Metadata"),
            "chunks": integer("How many chunks it has.", minimum=1),
            "chunk_ids": CHUNK_IDS,
            "created_at": moment("When the text came to be."),
            "updated_at": moment("When this version was stored."),
        },
    ),
    "DocumentPage": obj(
        "Some of the user's documents, newest first.",
        {
            "results": array(ref("ListedDocument"), maxItems=LIMIT_MAX),
            "next": or_null(string("The address of the page of older ones.", format="uri")),
            "previous": or_null(string("The address of the page of newer ones.", format="uri")),
        },
    ),
    "ListedDocument": obj(
        "What is known of a document without opening it.",
        {
            "doc_id": doc_id(),
            "source": source(),
            "thread_id": thread_id(),
            "chunks": integer("How many chunks it has.", minimum=1),
            "chars": integer("How many characters its text has.", minimum=1),
            "derived_from": array(string(), "The documents it was made from, such as those a summary covers."),
            "created_at": moment("When the text came to be."),
            "updated_at": moment("When this version was stored."),
        },
    ),
    "ExportedDocument": obj(
        "One line of an export: the body that `POST /memory/index` takes to store it again, without defaults.",
        {
            "doc_id": doc_id(),
            "text": string("The text, exactly as it was sent."),
            "source": source(),
            "thread_id": thread_id(),
            "metadata": ref("Metadata"),
            "created_at": moment("When the text came to be."),
        },
        optional=("source", "thread_id", "metadata"),
    ),
    "MemoryStats": obj(
        "The user's memory in numbers.",
        {
            "documents": integer("All documents."),
            "derived_documents": integer("Those made from others, such as summaries."),
            "chunks": integer("Chunks of all documents."),
            "chars": integer("Characters of all texts."),
            "threads": integer("Conversations."),
            "sources": {
                "type": "object",
                "description": f"Documents by source, most first; at most {SOURCES_MAX} sources.",
                "additionalProperties": integer(minimum=1),
                "maxProperties": SOURCES_MAX,
            },
            "oldest": or_null(moment("The first document's time.")),
            "newest": or_null(moment("The last document's time.")),
            "quarantined_chunks": integer("Chunks quarantined because they did not open."),
            "quota": obj(
                "What is stored of what the user may store; past it `index` answers 422 `quota_exceeded`.",
                {"chunks": integer("Chunks that count."), "max_chunks": integer("How many may be stored.", minimum=1)},
            ),
            "rates": obj(
                "The user's token buckets; null for one that is not limited. Looking takes a token of `memory` only.",
                {
                    "query": _RATE,
                    "index": _RATE,
                    "chunks": _RATE | {"description": "A token a chunk that `index` is about to store."},
                    "memory": _RATE | {"description": "The rest of the memory endpoints."},
                    "default": _RATE | {"description": "Everything else."},
                },
            ),
        },
    ),
    "ErasureReceipt": obj(
        "What was erased, signed: `manage.py verify_receipt` checks it.",
        {
            "version": integer("Of this form.", minimum=1),
            "key_id": string("Which key signed it.", pattern="^[0-9a-f]{16}$"),
            "subject": string("Whose it is: an HMAC of the user id, hex.", pattern="^[0-9a-f]{64}$"),
            "erased_documents": integer(),
            "erased_chunks": integer(),
            "key_destroyed": boolean("False only where there was nothing to erase."),
            "unrecoverable_after": moment("From then on no backup of the keys is left that could open anything."),
            "at": moment("When it was done."),
            "signature": string("Ed25519 over the other members as canonical JSON, base64url.", pattern=BASE64URL),
        },
    ),
}
