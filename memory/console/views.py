"""GET /console/ and its files: a page for people on the public API, which it asks as any client does."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.http import Http404, JsonResponse

from memory.api.views.files import FileView, file_response
from memory.erasure.receipts import public_keys

_PAGE = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# The only files there are, by the name in their address; a name that is not here is not looked for anywhere.
FILES = {path.name: _TYPES[path.suffix] for path in sorted(_PAGE.iterdir()) if path.suffix in _TYPES}
# Scripts, styles and requests of this host only, and none that stands in the page.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _ConsoleView(FileView):
    """404 where MEMORY_CONSOLE is off."""

    def initial(self, request, *args, **kwargs):
        if not settings.MEMORY_CONSOLE:
            raise Http404
        super().initial(request, *args, **kwargs)


class ConsoleView(_ConsoleView):
    """The page."""

    def get(self, request):
        response = file_response(request, _PAGE / "index.html", "text/html; charset=utf-8")
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response["Cross-Origin-Opener-Policy"] = "same-origin"
        response["Referrer-Policy"] = "no-referrer"
        return response


class ConsoleFileView(_ConsoleView):
    """One of the page's FILES."""

    def get(self, request, name):
        if name not in FILES:
            raise Http404
        return file_response(request, _PAGE / name, FILES[name])


class ReceiptKeysView(_ConsoleView):
    """What receipts of erasures are verified with: key id -> public key as PEM."""

    def get(self, request):
        return JsonResponse(public_keys())
