"""POST /memory/summarize"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.permissions import HasScope
from memory.api.responses import summarize as responses
from memory.api.serializers.summarize import MemorySummaryRequest
from memory.api.views.base import MemoryView
from memory.services import rate_limits
from memory.services.summarize import summarize_memory


class SummarizeView(MemoryView):
    """Summarise part of the memory. Writing, with `store: false` too: one rule that a token's owner can remember.

    What a query finds is summarised by running that query, so it takes a query's token as well.
    """

    operation = "summarize"
    deadline_setting = "MEMORY_LANGUAGE_SECONDS"
    permission_classes = [HasScope.write]

    def post(self, request):
        asked = MemorySummaryRequest.read(request.data)
        if asked["scope"].kind == "query":
            rate_limits.charge(rate_limits.QUERY)
        return Response(responses.summary(summarize_memory(request.verified_token.user_id, **asked)))
