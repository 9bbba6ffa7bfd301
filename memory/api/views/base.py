"""What every endpoint shares: the methods, the order of a request, the switch and the error counter."""

from __future__ import annotations

from django.conf import settings
from rest_framework.views import APIView

from memory import metrics
from memory.api import throttles
from memory.errors import MemoryDisabled

_REASONS = {
    "overloaded": "timeout",
    "rate_limited": "rate",
    "too_many_chunks": "quota",
    "quota_exceeded": "quota",
    "payload_too_large": "quota",
}


class ApiView(APIView):
    """An endpoint that does not describe itself: OPTIONS is refused, and no `Allow` lists it."""

    http_method_names = ["get", "post", "put", "patch", "delete", "head", "trace"]


class MemoryView(ApiView):
    """One memory endpoint: `operation` names it in metrics, `bucket` is what its requests take a token from.

    The middleware has looked at length, encoding and token. Then, in this order: memory is on, the rate limit,
    Accept, the scope; parsing and validation are the method's own. A method that is not there costs a token too.
    """

    operation = ""
    bucket = throttles.MEMORY

    def initial(self, request, *args, **kwargs):
        if not settings.MEMORY_ENABLED:
            raise MemoryDisabled()
        throttles.charge(self.bucket)
        super().initial(request, *args, **kwargs)

    def handle_exception(self, exc):
        response = super().handle_exception(exc)
        reason = "bad_request" if response.status_code < 500 else "server"
        metrics.errors.labels(self.operation, _REASONS.get(getattr(exc, "code", None), reason)).inc()
        return response
