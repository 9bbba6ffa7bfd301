"""POST /memory/erase"""

from __future__ import annotations

from rest_framework.response import Response

from memory.api.permissions import HasScope
from memory.api.responses.erase import erasure_receipt
from memory.api.serializers.erase import MemoryEraseRequest
from memory.api.views.base import MemoryView
from memory.erasure.erase import erase_memory
from memory.keys.receipt_keys import receipt_keys


class EraseView(MemoryView):
    """Erase the user: keys and rows, for good."""

    operation = "erase"
    deadline_setting = "MEMORY_INDEX_SECONDS"
    permission_classes = [HasScope.write]

    def post(self, request):
        user_id = request.verified_token.user_id
        serializer = MemoryEraseRequest(data=request.data, context={"user_id": user_id})
        serializer.is_valid(raise_exception=True)
        # Before anything is erased: without a key nobody could be given the receipt.
        receipt_keys()
        return Response(erasure_receipt(user_id, erase_memory()))
