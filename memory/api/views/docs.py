"""GET /schema, GET /docs and the files of its page: the contract, served without a token and without any other host."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import drf_spectacular_sidecar
from django.http import Http404, HttpResponse, HttpResponseNotModified
from rest_framework.renderers import JSONRenderer

from memory.api.schema import document
from memory.api.views.base import ApiView

_SWAGGER = Path(drf_spectacular_sidecar.__file__).parent / "static/drf_spectacular_sidecar/swagger-ui-dist"
_OWN = Path(__file__).parent.parent / "schema/page"

# The only files there are, by the name in their address; a name that is not here is not looked for anywhere.
FILES = {
    "swagger-ui.css": (_SWAGGER, "text/css"),
    "swagger-ui-bundle.js": (_SWAGGER, "text/javascript"),
    "favicon-32x32.png": (_SWAGGER, "image/png"),
    "start.js": (_OWN, "text/javascript"),
}
MAX_AGE_SECONDS = 300
# Scripts, styles and requests of this host only; Swagger UI draws its icons from data: addresses.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _FileView(ApiView):
    """A file, whatever the request's Accept: it has one form only."""

    def perform_content_negotiation(self, request, force=False):
        return JSONRenderer(), JSONRenderer.media_type


class SchemaView(_FileView):
    """The committed OpenAPI document."""

    def get(self, request):
        return _file(request, document.PATH, document.MEDIA_TYPE)


class DocsView(_FileView):
    """The page that renders it."""

    def get(self, request):
        response = _file(request, _OWN / "index.html", "text/html; charset=utf-8")
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response


class DocsFileView(_FileView):
    """One of the page's FILES."""

    def get(self, request, name):
        if name not in FILES:
            raise Http404
        folder, content_type = FILES[name]
        return _file(request, folder / name, content_type)


def _file(request, path: Path, content_type: str) -> HttpResponse:
    content, etag = _read(path)
    if request.headers.get("If-None-Match") == etag:
        response: HttpResponse = HttpResponseNotModified()
    else:
        response = HttpResponse(content, content_type=content_type)
    response["ETag"] = etag
    response["Cache-Control"] = f"public, max-age={MAX_AGE_SECONDS}"
    return response


@lru_cache(maxsize=len(FILES) + 2)
def _read(path: Path) -> tuple[bytes, str]:
    content = path.read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
