"""What every memory endpoint shares: the switch, and the error counter."""

from __future__ import annotations

from django.conf import settings
from rest_framework.views import APIView

from memory import metrics
from memory.errors import MemoryDisabled

_REASONS = {"overloaded": "timeout", "rate_limited": "rate", "too_many_chunks": "quota", "payload_too_large": "quota"}


class MemoryView(APIView):
    """`operation` names the endpoint in metrics."""

    operation = ""

    def initial(self, request, *args, **kwargs):
        super().initial(request, *args, **kwargs)
        if not settings.MEMORY_ENABLED:
            raise MemoryDisabled()

    def handle_exception(self, exc):
        response = super().handle_exception(exc)
        reason = "bad_request" if response.status_code < 500 else "server"
        metrics.errors.labels(self.operation, _REASONS.get(getattr(exc, "code", None), reason)).inc()
        return response
