"""GET /metrics: every worker's metrics in Prometheus text, for a scraper and nobody else."""

from __future__ import annotations

import hmac
import ipaddress

from django.conf import settings
from django_prometheus.exports import ExportToDjangoView

from memory.errors import MissingToken
from r1site.problems import allow_methods, problem_response

_FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")


@allow_methods("GET", "HEAD")
def exposition(request):
    """The exposition, by MEMORY_METRICS_TOKEN, or from loopback where no proxy stands between."""
    if not (_has_token(request) or _is_local(request)):
        return problem_response(request, MissingToken())
    return ExportToDjangoView(request)


def _has_token(request) -> bool:
    wanted, given = settings.MEMORY_METRICS_TOKEN, request.headers.get("Authorization", "")
    return bool(wanted) and hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode())


def _is_local(request) -> bool:
    if any(header in request.META for header in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(request.META.get("REMOTE_ADDR", "")).is_loopback
    except ValueError:
        return False
