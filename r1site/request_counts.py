"""Every request under /api/ counted once, when its last byte has gone: how it ended and how long it took.

Whatever refused it, a middleware or the view, it is counted here; what gunicorn's own parser refuses never gets here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve

from memory import metrics
from memory.admission.deadline import arrived_at
from memory.api.urls import urlpatterns as api_urls
from memory.problems import OURS, Outcome, outcome_of, reason_of
from memory.rollout.variants import NO_VARIANT, PIPELINES
from r1site.once_closed import once_closed
from r1site.request_limits import API_PREFIX

NO_OPERATION = "none"
# The outcomes that the error rate and the share of whole streams are made of.
_JUDGED: tuple[Outcome, ...] = ("ok", *OURS)


def count_from_zero() -> None:
    """Expose what rates are made of before it happens, so that a rate without errors is 0 and the first error counts.

    Of a series that begins at 1 Prometheus sees no increase.
    """
    operations = {_operation_of(each.callback) for each in api_urls} - {NO_OPERATION}
    for variant in PIPELINES:
        for outcome in _JUDGED:
            metrics.variant_requests.labels(variant, outcome)
            for operation in operations:
                metrics.requests.labels(operation, variant, outcome)
        for ended in ("done", "error"):
            metrics.streams.labels(variant, ended)


class RequestCountsMiddleware:
    """Stands outside of all that may refuse a request.

    A response says what it was in `problem_code` and `is_own_problem`, a streamed body in its own `outcome`; without
    either it is `ok`.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]):
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(API_PREFIX) or request.path_info in settings.MEMORY_PUBLIC_PATHS:
            return self.get_response(request)
        started_at = arrived_at()
        response = self.get_response(request)
        if isinstance(response, StreamingHttpResponse):
            _count_when_closed(request, response, started_at)
        else:
            operation, outcome = _operation(request), _outcome(response)
            _count(request, operation, outcome, started_at)
            _count_problem(request, response, operation, outcome)
        return response


def _count_when_closed(request: HttpRequest, response: StreamingHttpResponse, started_at: float) -> None:
    # Django wraps what it iterates over; the body itself says how it ended.
    body = getattr(response, "body", None)
    once_closed(response, lambda: _count(request, _operation(request), getattr(body, "outcome", "ok"), started_at))


def _outcome(response: HttpResponseBase) -> Outcome:
    code = getattr(response, "problem_code", None)
    if code is None:
        return "ok" if response.status_code < 400 else "client" if response.status_code < 500 else "server"
    return outcome_of(code, is_own=getattr(response, "is_own_problem", False))


def _count(request: HttpRequest, operation: str, outcome: Outcome, started_at: float) -> None:
    variant = getattr(request, "variant", NO_VARIANT)
    metrics.requests.labels(operation, variant, outcome).inc()
    metrics.variant_requests.labels(variant, outcome).inc()
    metrics.request_ms.labels(operation, variant, outcome).observe((time.monotonic() - started_at) * 1000)


def _count_problem(request: HttpRequest, response: HttpResponseBase, operation: str, outcome: Outcome) -> None:
    code = getattr(response, "problem_code", None)
    if code is None:
        return
    metrics.errors.labels(operation, reason_of(outcome)).inc()
    if outcome in ("client", "rate", "quota"):
        metrics.refused.labels(code).inc()
    if operation == "stream":
        metrics.streams.labels(getattr(request, "variant", NO_VARIANT), "refused").inc()


def _operation(request: HttpRequest) -> str:
    match = request.resolver_match
    if match is None:
        # Refused before its address was looked up.
        try:
            match = resolve(request.path_info)
        except Resolver404:
            return NO_OPERATION
    return _operation_of(match.func)


def _operation_of(view: Callable) -> str:
    return getattr(getattr(view, "cls", None), "operation", "") or NO_OPERATION
