"""POST /stream"""

from __future__ import annotations

import json
import time

from django.conf import settings
from django.http import StreamingHttpResponse
from django.utils.module_loading import import_string
from rest_framework.renderers import BaseRenderer
from rest_framework.views import APIView

from memory.admission import concurrency
from memory.api.permissions import HasScope, HasToken
from memory.api.serializers.stream import MemoryStreamRequest
from memory.api.streaming.client import StreamClient
from memory.api.streaming.sse import CONTENT_TYPE, MEDIA_TYPE, EventStream
from memory.api.views.base import MemoryView
from memory.errors import MemoryDisabled
from memory.rls import bound_tenant
from memory.rollout.flags import flag
from memory.rollout.variants import variant_in_use
from memory.services import rate_limits
from memory.services.stream import StreamedQuestion, stream_answer


class EventStreamRenderer(BaseRenderer):
    """For the negotiation of Accept alone: the response is no rendered one."""

    media_type = MEDIA_TYPE
    format = "sse"
    charset = None


class StreamView(MemoryView):
    """Answer while writing. With `"memory": false` no memory is touched, and none need be there.

    So what stands before other memory endpoints waits here for the body: the switch, a token of the query bucket, the
    read scope, and the news that the rate limiter could not be asked. While it cannot, only one stream in a while
    waits to find out; the others without memory go on unasked.
    """

    operation = "stream"
    budget = concurrency.streams
    permission_classes = [HasToken]
    renderer_classes = [EventStreamRenderer]

    def initial(self, request, *args, **kwargs):
        self.started = time.perf_counter()
        self.limiter_failure = None
        self.is_charged = False
        if not rate_limits.has_just_failed():
            try:
                rate_limits.charge(rate_limits.DEFAULT)
                self.is_charged = True
            except rate_limits.FAILURES as failure:
                self.limiter_failure = failure
        # Not MemoryView's, which asks for all of memory.
        APIView.initial(self, request, *args, **kwargs)

    def post(self, request):
        question: StreamedQuestion = MemoryStreamRequest.read(request.data)
        if question.memory:
            self._require_memory(request)
        events = stream_answer(question)
        body = EventStream(
            events,
            started=self.started,
            client=StreamClient(request.META.get("gunicorn.socket")),
            problem=lambda error: _problem_document(request, error),
            release=request.slot.hand_over(),
            variant=variant_in_use(bound_tenant()),
        )
        response = StreamingHttpResponse(body, content_type=CONTENT_TYPE)
        response.body = body  # type: ignore[attr-defined]
        # nginx: pass each event on as it comes.
        response["X-Accel-Buffering"] = "no"
        return response

    def _require_memory(self, request) -> None:
        if not flag("MEMORY_ENABLED"):
            raise MemoryDisabled()
        if self.limiter_failure is not None:
            raise self.limiter_failure
        if not self.is_charged:
            rate_limits.charge(rate_limits.DEFAULT)
        rate_limits.charge(rate_limits.QUERY)
        HasScope.read().has_permission(request, self)


def _problem_document(request, error: BaseException) -> dict:
    """What the API answers for `error`, logged where it is ours, to be sent as an event."""
    return json.loads(import_string(settings.MEMORY_PROBLEM_RESPONSE)(request, error).content)
