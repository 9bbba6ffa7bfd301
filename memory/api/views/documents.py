"""GET /memory/documents, GET and DELETE /memory/documents/<path:doc_id>"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields import StrictCharField
from memory.api.permissions import HasScope
from memory.api.responses import documents as responses
from memory.api.serializers.documents import MemoryDocumentsRequest
from memory.api.views.base import MemoryView
from memory.limits import DOC_ID_MAX_CHARS
from memory.services.documents import get_document
from memory.services.forget import delete_document
from memory.services.listing import list_documents


class DocumentsView(MemoryView):
    """The user's documents, newest first, a page at a time."""

    operation = "documents"
    permission_classes = [HasScope.read]

    def get(self, request):
        serializer = MemoryDocumentsRequest(data=request.query_params)
        serializer.is_valid(raise_exception=True)
        page = list_documents(**serializer.validated_data)
        return Response(responses.document_page(page, lambda cursor: self._address(request, cursor)))

    def _address(self, request, cursor: str) -> str:
        """This page's address with another cursor; of its parameters, those that are known."""
        known = request.query_params.copy()
        for name in known.keys() - MemoryDocumentsRequest().fields.keys():
            del known[name]
        known["cursor"] = cursor
        return request.build_absolute_uri(f"{request.path}?{known.urlencode()}")


class DocumentView(MemoryView):
    """One document, by the product's own id."""

    operation = "documents"
    _doc_id = StrictCharField(max_chars=DOC_ID_MAX_CHARS, control_characters=False, validators=[refuse_unaddressable])

    def get_permissions(self):
        return [HasScope.write() if self.request.method == "DELETE" else HasScope.read()]

    def get(self, request, doc_id):
        return Response(responses.stored_document(get_document(self._checked(doc_id))))

    def delete(self, request, doc_id):
        delete_document(self._checked(doc_id))
        return Response(status=204)

    def _checked(self, doc_id: str) -> str:
        return self._doc_id.run_validation(doc_id)
