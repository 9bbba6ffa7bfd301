"""What GET /memory/export answers."""

from __future__ import annotations

import json
from typing import Any

from memory.api.fields import rfc3339
from memory.services.documents import StoredDocument

INDEX_DEFAULTS: dict[str, Any] = {"source": "api", "thread_id": None, "metadata": {}}


def exported_line(document: StoredDocument) -> bytes:
    """One document as one line of JSON: the body that POST /memory/index takes to store it again.

    Members that hold what index takes them for anyway are left out, so that a body near the limit is no line beyond it.
    """
    body = {"doc_id": document.doc_id, "text": document.text}
    for name, default in INDEX_DEFAULTS.items():
        value = getattr(document, name)
        if value != default:
            body[name] = value
    body["created_at"] = rfc3339(document.created_at)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
