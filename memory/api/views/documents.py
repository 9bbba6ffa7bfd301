"""GET and DELETE /memory/documents/<path:doc_id>"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.answers import documents as answers
from memory.api.authentication import HasScope
from memory.api.doc_ids import refuse_unaddressable
from memory.api.fields import StrictCharField
from memory.api.views.base import MemoryView
from memory.conf import DOC_ID_MAX_CHARS
from memory.services.documents import get_document
from memory.services.forget import delete_document


class DocumentView(MemoryView):
    """One document, by the product's own id."""

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
