"""POST /memory/index"""

from __future__ import annotations

import re
from functools import partial

from django.http import HttpResponse

from memory.api import throttles
from memory.api.permissions import HasScope
from memory.api.responses import index as responses
from memory.api.serializers.index import index_request
from memory.api.views.base import MemoryView
from memory.errors import FieldError, InvalidInput
from memory.services.idempotency import IdempotentCall
from memory.services.index import index_documents, index_once, look_first

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
    bucket = throttles.INDEX
    permission_classes = [HasScope.write]

    def post(self, request):
        key = _idempotency_key(request)
        asked = index_request(request.data)
        render = partial(responses.indexed, is_batch=asked.is_batch)
        user_id = request.verified_token.user_id
        call = None if key is None else IdempotentCall(key, asked.canonical(), render)
        answer = look_first(asked.drafts, asked.chunked, call)
        if answer is None:
            throttles.charge_chunks(asked.chunked.chunk_count)
            if call is None:
                answer = render(index_documents(user_id, asked.drafts, asked.chunked))
            else:
                answer = index_once(user_id, asked.drafts, asked.chunked, call)
        headers = {REPLAYED: "true"} if answer.replayed else {}
        return HttpResponse(answer.body, status=answer.status, content_type="application/json", headers=headers)


def _idempotency_key(request) -> str | None:
    """The header's value, 1-128 visible ASCII characters; None without one. Raises InvalidInput."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidInput([FieldError(IDEMPOTENCY_KEY, "invalid", "1 to 128 visible ASCII characters.")])
    return key
