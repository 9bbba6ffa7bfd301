"""GET /memory/export"""

from __future__ import annotations

from django.http import StreamingHttpResponse
from rest_framework.renderers import BaseRenderer

from memory.admission import concurrency
from memory.api.permissions import HasScope
from memory.api.responses.export import exported_line
from memory.api.streaming.client import StreamClient
from memory.api.streaming.export import ExportBody
from memory.api.views.base import MemoryView
from memory.services.export import export_documents


class JsonLinesRenderer(BaseRenderer):
    """Says which `Accept` this address can meet; the lines are written as they come, and not by DRF.

    `answered_type` is the media type that the answer then has.
    """

    media_type = answered_type = "application/x-ndjson"
    format = "ndjson"


class JsonAsLinesRenderer(JsonLinesRenderer):
    """For clients that ask every address for JSON: they get lines of it, said to be such."""

    media_type = "application/json"


class PlainTextRenderer(JsonLinesRenderer):
    """For clients that know no other type of text, such as generated ones."""

    media_type = answered_type = "text/plain"


class ExportView(MemoryView):
    """Everything the user has stored, as JSON Lines; what it gives, `index` takes back, line by line.

    One at a time for a user, and few at once in a worker (`exports`): each holds a thread for as long as its reader
    likes, within the limits of StreamClient and ExportBody.
    """

    operation = "export"
    budget = concurrency.exports
    permission_classes = [HasScope.read]
    renderer_classes = [JsonLinesRenderer, JsonAsLinesRenderer, PlainTextRenderer]

    def get(self, request):
        # For HEAD the server would carry out the whole export and send none of it. How long it is, nobody knows before.
        body, degraded = ((), []) if request.method == "HEAD" else _body(request)
        content_type = f"{request.accepted_renderer.answered_type}; charset=utf-8"
        response = StreamingHttpResponse(body, content_type=content_type)
        response.body = body  # type: ignore[attr-defined]
        if degraded:
            response["X-R1-Degraded"] = ", ".join(degraded)
        return response


def _body(request) -> tuple[ExportBody, list[str]]:
    """What goes out, and what it has to do without."""
    export = export_documents()
    lines = (exported_line(document) for document in export.documents)
    client = StreamClient(request.META.get("gunicorn.socket"))
    return ExportBody(lines, client=client, release=request.slot.hand_over()), export.degraded
