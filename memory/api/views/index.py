"""POST /memory/index"""

from __future__ import annotations

import re

from rest_framework.response import Response

from memory.api.permissions import HasScope
from memory.api.responses import index as responses
from memory.api.serializers.index import index_request
from memory.api.views.base import MemoryView
from memory.errors import FieldError, InvalidInput
from memory.services import rate_limits
from memory.services.idempotency import IdempotentCall
from memory.services.index import index_documents

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_KEY = re.compile(r"[!-~]{1,128}")


class IndexView(MemoryView):
    """Remember a document, or several at once; under an Idempotency-Key, once.

    Costs a token for each chunk too, once these are counted and before they are embedded; an answer that is given again
    does not.
    """

    operation = "index"
    deadline_setting = "MEMORY_INDEX_SECONDS"
    bucket = rate_limits.INDEX
    permission_classes = [HasScope.write]

    def post(self, request):
        key = _idempotency_key(request)
        asked = index_request(request.data)
        call = None if key is None else IdempotentCall(key, asked.canonical())
        batch = index_documents(request.verified_token.user_id, asked.drafts, call, field=asked.field)
        answer = responses.indexed_documents(batch) if asked.is_batch else responses.indexed_document(batch)
        headers = {REPLAYED: "true"} if batch.replayed else {}
        return Response(answer, status=responses.status_of(batch), headers=headers)


def _idempotency_key(request) -> str | None:
    """The header's value, 1-128 visible ASCII characters; None without one. Raises InvalidInput."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput([FieldError(IDEMPOTENCY_KEY, "invalid", "1 to 128 visible ASCII characters.")])
    return key
