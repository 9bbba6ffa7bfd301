"""What GET /memory/export answers."""

from __future__ import annotations

import json

from memory.api.fields import rfc3339
from memory.services.documents import StoredDocument


def exported_line(document: StoredDocument) -> bytes:
    """One document as one line of JSON: the body that POST /memory/index takes to store it again."""
    body = {
        "doc_id": document.doc_id,
        "text": document.text,
        "source": document.source,
        "thread_id": document.thread_id,
        "metadata": document.metadata,
        "created_at": rfc3339(document.created_at),
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
