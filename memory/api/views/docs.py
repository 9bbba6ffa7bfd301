"""GET /schema, GET /docs and the files of its page: the contract, served without a token and without any other host."""

from __future__ import annotations

from pathlib import Path

import drf_spectacular_sidecar
from django.http import Http404

from memory.api.schema import document
from memory.api.views.files import FileView, file_response

_SWAGGER = Path(drf_spectacular_sidecar.__file__).parent / "static/drf_spectacular_sidecar/swagger-ui-dist"
_OWN = Path(__file__).parent.parent / "schema/page"

# The only files there are, by the name in their address; a name that is not here is not looked for anywhere.
FILES = {
    "swagger-ui.css": (_SWAGGER, "text/css"),
    "swagger-ui-bundle.js": (_SWAGGER, "text/javascript"),
    "favicon-32x32.png": (_SWAGGER, "image/png"),
    "start.js": (_OWN, "text/javascript"),
}
# Scripts, styles and requests of this host only; Swagger UI draws its icons from data: addresses.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class SchemaView(FileView):
    """The committed OpenAPI document."""

    def get(self, request):
        return file_response(request, document.PATH, document.MEDIA_TYPE)


class DocsView(FileView):
    """The page that renders it."""

    def get(self, request):
        response = file_response(request, _OWN / "index.html", "text/html; charset=utf-8")
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response


class DocsFileView(FileView):
    """One of the page's FILES."""

    def get(self, request, name):
        if name not in FILES:
            raise Http404
        folder, content_type = FILES[name]
        return file_response(request, folder / name, content_type)
