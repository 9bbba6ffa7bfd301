"""Pages of other origins may call the API where MEMORY_CORS_ORIGINS names them; by default none may.

Without credentials: the API knows no cookie, and a token is set by the page that has it (Fetch, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers

from r1site.request_limits import API_PREFIX

METHODS = "GET, POST, DELETE"
HEADERS = "Authorization, Content-Type, Idempotency-Key, X-Request-ID"
EXPOSED = "Retry-After, WWW-Authenticate, X-Request-ID, X-R1-Degraded"
PREFLIGHT_SECONDS = 600


class CrossOriginMiddleware:
    """Answers preflights itself, before a token is asked for; to any other origin nothing is said."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not settings.MEMORY_CORS_ORIGINS or not request.path_info.startswith(API_PREFIX):
            return self.get_response(request)
        origin = request.headers.get("Origin", "")
        is_allowed = origin in settings.MEMORY_CORS_ORIGINS
        if is_allowed and request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            response: HttpResponseBase = HttpResponse(status=204)
            response["Access-Control-Allow-Methods"] = METHODS
            response["Access-Control-Allow-Headers"] = HEADERS
            response["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
        else:
            response = self.get_response(request)
        patch_vary_headers(response, ["Origin"])
        if is_allowed:
            response["Access-Control-Allow-Origin"] = origin
            response["Access-Control-Expose-Headers"] = EXPOSED
        return response
