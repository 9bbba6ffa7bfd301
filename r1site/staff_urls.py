"""The addresses of staff's host names, and what is said there when something fails."""

from __future__ import annotations

import logging
import sys

from django.conf import settings
from django.http import HttpResponse
from django.urls import path

from memory.admin import site
from r1site.our_line import our_innermost_line

logger = logging.getLogger(__name__)


def failed(request):
    """500, logged by the exception's type and our line: its text may quote what it is about."""
    kind, _, traceback = sys.exc_info()
    name, line = getattr(kind, "__name__", None), our_innermost_line(traceback)
    logger.error("request %s: %s at %s", getattr(request, "request_id", None), name, line)
    return HttpResponse(
        "Something failed. It was logged, by the request's id.\n", status=500, content_type="text/plain; charset=utf-8"
    )


urlpatterns = [path(settings.STAFF_PREFIX.lstrip("/"), site.urls)]

handler500 = failed
