"""GET /memory/stats"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.permissions import HasScope
from memory.api.responses import stats as responses
from memory.api.views.base import MemoryView
from memory.services.stats import memory_stats


class StatsView(MemoryView):
    """The user's memory in numbers."""

    operation = "stats"
    permission_classes = [HasScope.read]

    def get(self, request):
        return Response(responses.memory_stats(memory_stats()))
