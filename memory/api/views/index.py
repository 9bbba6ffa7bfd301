"""POST /memory/index"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.answers import index as answers
from memory.api.authentication import HasScope
from memory.api.serializers.index import MemoryIndexRequest
from memory.api.views.base import MemoryView
from memory.services.index import index_document


class IndexView(MemoryView):
    """Remember a document."""

    operation = "index"
    permission_classes = [HasScope.write]

    def post(self, request):
        serializer = MemoryIndexRequest(data=request.data)
        serializer.is_valid(raise_exception=True)
        indexed = index_document(request.verified_token.user_id, **serializer.validated_data)
        return Response(answers.indexed_document(indexed), status=200 if indexed.replaced else 201)
