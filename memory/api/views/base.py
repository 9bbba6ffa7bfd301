"""What every endpoint shares: the methods, the order of a request and the switch."""

from __future__ import annotations

from rest_framework.views import APIView

from memory.admission import concurrency
from memory.errors import MemoryDisabled
from memory.rollout.flags import flag
from memory.services import rate_limits


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
        if not flag("MEMORY_ENABLED"):
            raise MemoryDisabled()
        # With a body to come, or a model to run on it, no connection is held meanwhile.
        rate_limits.charge(self.bucket, keeps_connection=request.META.get("CONTENT_LENGTH") in (None, "", "0"))
        super().initial(request, *args, **kwargs)
