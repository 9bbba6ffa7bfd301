"""Files that pages are made of: served as they are, to anybody, with what a browser needs to trust them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from django.http import HttpResponse, HttpResponseNotModified
from rest_framework.renderers import JSONRenderer

from memory.api.views.base import ApiView

MAX_AGE_SECONDS = 300
# More than all pages have.
_FILES_MAX = 64


class FileView(ApiView):
    """A file, whatever the request's Accept: it has one form only."""

    def perform_content_negotiation(self, request, force=False):
        return JSONRenderer(), JSONRenderer.media_type


def file_response(request, path: Path, content_type: str) -> HttpResponse:
    """The file, or 304 for who has it; kept by browsers for MAX_AGE_SECONDS."""
    content, etag = _read(path)
    if request.headers.get("If-None-Match", "").removeprefix("W/") == etag:
        response: HttpResponse = HttpResponseNotModified()
    else:
        response = HttpResponse(content, content_type=content_type)
    response["ETag"] = etag
    response["Cache-Control"] = f"public, max-age={MAX_AGE_SECONDS}"
    return response


@lru_cache(maxsize=_FILES_MAX)
def _read(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
