"""POST /memory/query"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.permissions import HasScope
from memory.api.responses import query as responses
from memory.api.serializers.query import MemoryQueryRequest
from memory.api.views.base import MemoryView
from memory.services import rate_limits
from memory.services.query import query_measured


class QueryView(MemoryView):
    """Answer a question."""

    operation = "query"
    bucket = rate_limits.QUERY
    permission_classes = [HasScope.read]

    def post(self, request):
        return Response(responses.memory_answer(query_measured(MemoryQueryRequest.read(request.data))))
