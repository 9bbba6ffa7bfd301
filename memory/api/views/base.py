"""What every endpoint shares: the methods, the order of a request, the switch and the error counter."""

from __future__ import annotations

from django.conf import settings
from rest_framework.views import APIView

from memory import metrics
from memory.admission import concurrency
from memory.errors import MemoryDisabled
from memory.services import rate_limits

_REASONS = {
    "overloaded": "timeout",
    "request_timeout": "timeout",
    "rate_limited": "rate",
    "too_many_requests_at_once": "rate",
    "too_many_chunks": "quota",
    "quota_exceeded": "quota",
    "payload_too_large": "quota",
}


class ApiView(APIView):
    """An endpoint that does not describe itself: OPTIONS is refused, and no `Allow` lists it."""

    http_method_names = ["get", "post", "put", "patch", "delete", "head", "trace"]


class MemoryView(ApiView):
    """One memory endpoint: `operation` names it in metrics, `bucket` is what its requests take a token from.

    `budget` and `deadline_setting` are what AdmissionMiddleware asks it for. The middleware has looked at length,
    encoding, token and room. Then, in this order: memory is on, the rate limit, Accept, the scope; body, parsing and
    validation are the method's own. A method that is not there costs a token too.
    """

    operation = ""
    bucket = rate_limits.MEMORY
    budget = concurrency.requests
    deadline_setting = "MEMORY_QUERY_SECONDS"

    def initial(self, request, *args, **kwargs):
        if not settings.MEMORY_ENABLED:
            raise MemoryDisabled()
        # With a body to come, or a model to run on it, no connection is held meanwhile.
        rate_limits.charge(self.bucket, keeps_connection=request.META.get("CONTENT_LENGTH") in (None, "", "0"))
        super().initial(request, *args, **kwargs)

    def handle_exception(self, exc):
        response = super().handle_exception(exc)
        self.count_refusal(response)
        return response

    @classmethod
    def count_refusal(cls, response) -> None:
        """Count a request that failed, by the code that its problem document tells."""
        reason = "bad_request" if response.status_code < 500 else "server"
        metrics.errors.labels(cls.operation, _REASONS.get(response.problem_code, reason)).inc()
