"""GET /metrics and /metrics/memory: every worker's metrics, for a scraper and nobody else."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator

import prometheus_client
import psycopg
from django.conf import settings
from django.db import connections
from django.http import HttpResponse, JsonResponse
from django_prometheus.exports import ExportToDjangoView
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector

import reranker
from memory import metrics
from memory.api.responses.operational import rerank_metrics
from memory.errors import MissingToken
from memory.isolation.own_index import own_index_totals
from memory.sealing.key_ages import key_ages_days
from r1site.problems import allow_methods, problem_response

STORED_SECONDS = 60.0
CONNECT_SECONDS = 5
_stored_seen = -math.inf
_stored_look = threading.Lock()
logger = logging.getLogger(__name__)

_FORWARDED = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP")
MEMORY_PREFIXES = ("memory_", "rerank_", "stream_", "auth_")


@allow_methods("GET", "HEAD")
def exposition(request):
    """The exposition, by MEMORY_METRICS_TOKEN, or from loopback where no proxy stands between."""
    if not _may_read(request):
        return problem_response(request, MissingToken())
    observe_stored()
    return ExportToDjangoView(request)


@allow_methods("GET", "HEAD")
def memory_exposition(request):
    """The memory metrics only, of all workers; with `?format=json` how this worker's reranker is doing."""
    if not _may_read(request):
        return problem_response(request, MissingToken())
    if request.GET.get("format") == "json":
        return JsonResponse(rerank_metrics(reranker.get_rerank_metrics()))
    observe_stored()
    exposed = prometheus_client.generate_latest(_MemoryMetrics())
    return HttpResponse(exposed, content_type=prometheus_client.CONTENT_TYPE_LATEST)


class _MemoryMetrics:
    """A registry, as far as the exposition needs one, of the metrics that are memory's."""

    def collect(self) -> Iterator[Metric]:
        registry = prometheus_client.REGISTRY
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        # A counter's family is named without its `_total`: stream_total is of the family `stream`.
        return (metric for metric in registry.collect() if f"{metric.name}_".startswith(MEMORY_PREFIXES))


class PoolMetricsMiddleware:
    """Look at the worker's connection pool before each request and after it.

    Gauges of several workers cannot be computed when they are read, for one worker answers for all. As seen here
    they are right at rest too: whoever leaves last has given his connection back.
    """

    def __init__(self, get_response: Callable):
        self.get_response = get_response

    def __call__(self, request):
        observe_pool()
        try:
            return self.get_response(request)
        finally:
            observe_pool()


def observe_pool() -> None:
    """Set the pool's gauges of this worker."""
    pool = getattr(connections["default"], "pool", None)
    if pool is None:
        return
    stats = pool.get_stats()
    size = stats.get("pool_size", 0)
    metrics.db_pool_max.set(stats.get("pool_max", 0))
    metrics.db_pool_size.set(size)
    metrics.db_pool_in_use.set(size - stats.get("pool_available", 0))
    metrics.db_pool_waiting.set(stats.get("requests_waiting", 0))


def observe_stored() -> None:
    """See to it that the gauges of users' own indexes and of key ages are looked at, at most once in STORED_SECONDS.

    In a thread and on a connection of its own, and not waited for: metrics are wanted most when the database is away.
    So what a scrape shows is from the look before.
    """
    global _stored_seen
    with _stored_look:
        if time.monotonic() - _stored_seen < STORED_SECONDS:
            return
        before, _stored_seen = _stored_seen, math.inf
    try:
        threading.Thread(target=_look_at_stored, name="stored-gauges", daemon=True).start()
    except RuntimeError as exc:
        # No more threads at the moment: the next scrape tries again.
        _stored_seen = before
        logger.warning("users' own indexes and key ages cannot be looked at (%s)", exc)


def _look_at_stored() -> None:
    global _stored_seen
    try:
        params = connections["default"].get_connection_params()
        with psycopg.connect(**{"connect_timeout": CONNECT_SECONDS} | params, autocommit=True) as connection:
            count, size_bytes = own_index_totals(connection)
            ages_days = key_ages_days(connection)
        metrics.own_indexes.set(count)
        metrics.own_index_bytes.set(size_bytes)
        for key, days in ages_days.items():
            metrics.key_age_days.labels(key).set(days)
    except psycopg.Error as exc:
        logger.warning("users' own indexes and key ages cannot be looked at (%s)", type(exc).__name__)
    finally:
        _stored_seen = time.monotonic()


def _may_read(request) -> bool:
    return _has_token(request) or _is_local(request)


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
