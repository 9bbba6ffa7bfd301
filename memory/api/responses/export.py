"""What GET /memory/export answers."""

from __future__ import annotations

import json

from memory.api.fields import rfc3339
from memory.api.responses.body import About, Member
from memory.api.shapes import doc_id, expiry, moment, ref, sequence, source, speaker, string, thread_id
from memory.services.documents import StoredDocument

# Members that hold what index takes them for anyway are left out, so that a body near the limit is no line beyond it.
EXPORTED_DOCUMENT = About(StoredDocument).body(
    "ExportedDocument",
    "One line of an export: the body that `POST /memory/index` takes to store it again, without defaults.",
    Member("doc_id", doc_id()),
    Member("text", string("The text, exactly as it was sent.")),
    Member("source", source(), unless="api"),
    Member("thread_id", thread_id(), unless=None),
    Member("sequence", sequence(), unless=0),
    Member("speaker", speaker(), unless=None),
    Member("metadata", ref("Metadata"), unless={}),
    Member("created_at", moment("When the text came to be."), lambda document: rfc3339(document.created_at)),
    Member("expires_at", expiry(), lambda document: document.expires_at and rfc3339(document.expires_at), unless=None),
)


def exported_line(document: StoredDocument) -> bytes:
    """One document as one line of JSON: the body that POST /memory/index takes to store it again."""
    body = EXPORTED_DOCUMENT.render(document)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
