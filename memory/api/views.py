"""Thin views: a serializer in, one service, an answer out."""

from __future__ import annotations

from django.conf import settings
from rest_framework.response import Response
from rest_framework.views import APIView

from memory import metrics
from memory.api import answers
from memory.api.authentication import HasScope, HasToken
from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields import StrictCharField
from memory.api.serializers import MemoryIndexRequest, MemoryQueryRequest
from memory.conf import DOC_ID_MAX_CHARS
from memory.errors import MemoryDisabled
from memory.services.documents import get_document
from memory.services.forget import delete_document
from memory.services.index import index_document
from memory.services.query import query_memory

_REASONS = {"overloaded": "timeout", "rate_limited": "rate", "too_many_chunks": "quota", "payload_too_large": "quota"}


class MemoryView(APIView):
    """What every memory endpoint shares: the switch, and the error counter."""

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


class IndexView(MemoryView):
    """POST /memory/index"""

    operation = "index"
    permission_classes = [HasScope.write]

    def post(self, request):
        serializer = MemoryIndexRequest(data=request.data)
        serializer.is_valid(raise_exception=True)
        indexed = index_document(request.verified_token.user_id, **serializer.validated_data)
        return Response(answers.indexed_document(indexed), status=200 if indexed.replaced else 201)


class QueryView(MemoryView):
    """POST /memory/query"""

    operation = "query"
    permission_classes = [HasScope.read]

    def post(self, request):
        serializer = MemoryQueryRequest(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(answers.memory_answer(query_memory(serializer.validated_data)))


class DocumentView(MemoryView):
    """GET and DELETE /memory/documents/<path:doc_id>"""

    operation = "documents"
    _doc_id = StrictCharField(max_chars=DOC_ID_MAX_CHARS, control_characters=False, validators=[refuse_unaddressable])

    def get_permissions(self):
        return [HasScope.write() if self.request.method == "DELETE" else HasScope.read()]

    def get(self, request, doc_id):
        return Response(answers.stored_document(get_document(self._checked(doc_id))))

    def delete(self, request, doc_id):
        delete_document(self._checked(doc_id))
        return Response(status=204)

    def _checked(self, doc_id: str) -> str:
        return self._doc_id.run_validation(doc_id)


class AuthCheckView(APIView):
    """GET /auth/check: the middleware has verified the token; no database is touched."""

    permission_classes = [HasToken]

    def get(self, request):
        return Response(status=204)
