"""Prometheus metrics of the memory service.

No label ever carries a user id, a hash or a path, and every label set is small and fixed.
"""

from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

_FAST_MS = (
    *(0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 40, 50, 75, 100),
    *(125, 150, 200, 250, 300, 350, 400, 500, 750, 1000, 2000, 5000),
)
_INDEX_MS = (*_FAST_MS, 10_000, 30_000)
_TTFV_MS = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1000, 1250, 1500, 2000, 3000, 5000, 10_000)
_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_REQUEST_MS = (5, 10, 25, 50, 75, 100, 150, 200, 350, 500, 750, 1000, 2500, 5000, 10_000, 30_000)
_AUTH_MS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 3, 5, 10, 25, 50, 100)

requests = Counter(
    "memory_requests_total", "Requests by operation, pipeline and how they ended", ["operation", "variant", "outcome"]
)
variant_requests = Counter(
    "memory_variant_requests_total", "Requests by pipeline and how they ended", ["variant", "outcome"]
)
request_ms = Histogram(
    "memory_request_ms",
    "One request from its headers to its last byte, in milliseconds, however it ended",
    ["operation", "variant", "outcome"],
    buckets=_REQUEST_MS,
)
refused = Counter("memory_refused_total", "Requests refused for their own fault, by problem code", ["reason"])
index_latency_ms = Histogram(
    "memory_index_latency_ms",
    "One index request once its body is read, in milliseconds; done, or failed by the service",
    buckets=_INDEX_MS,
)
query_latency_ms = Histogram(
    "memory_query_latency_ms",
    "One query request by stage, once its body is read, in milliseconds; done, or failed by the service",
    ["stage", "variant"],
    buckets=_FAST_MS,
)
searches = Counter(
    "memory_searches_total", "Candidate searches, by the index that their vector leg was to use", ["index"]
)
own_indexes = Gauge(
    "memory_own_indexes", "Vector indexes of big users' own that searches may use", multiprocess_mode="mostrecent"
)
own_index_bytes = Gauge("memory_own_index_bytes", "What these take, in bytes", multiprocess_mode="mostrecent")
query_candidates = Counter("memory_query_candidates_total", "Candidates found by queries")
errors = Counter("memory_errors_total", "Failed memory requests", ["operation", "reason"])
rls_denied = Counter("memory_rls_denied_total", "Statements that row-level security or a missing grant refused")
cross_tenant_attempts = Counter(
    "memory_cross_tenant_attempts_total", "The server contradicted itself about whose data it held"
)
decrypt_failed = Counter("memory_decrypt_failed_total", "Sealed values that did not open", ["column"])
keys_near_seal_limit = Counter("memory_keys_near_seal_limit_total", "Uses of a data key past 2^31 seals")
key_provider_ms = Histogram(
    "memory_key_provider_ms", "One call to the key server, in milliseconds", ["operation"], buckets=_FAST_MS
)
key_provider_failed = Counter(
    "memory_key_provider_failed_total", "Calls to the key server that gave no key, by why", ["operation", "reason"]
)
auth_ms = Histogram("auth_ms", "Verifying one bearer token, in milliseconds", buckets=_AUTH_MS)
auth_refused = Counter("memory_auth_refused_total", "Bearer tokens refused, by the rule that refused them", ["reason"])
stream_ttfv_ms = Histogram(
    "stream_ttfv_ms", "One stream up to its first token, in milliseconds", ["variant"], buckets=_TTFV_MS
)
streams = Counter(
    "stream_total", "Streams by pipeline and how they ended: done, error, aborted or refused", ["variant", "outcome"]
)
rerank_skipped = Counter(
    "memory_rerank_skipped_total",
    "Queries answered in candidate order, by reason; not_requested is not among them",
    ["reason"],
)
canary_percent = Gauge(
    "memory_canary_percent", "Users of a hundred who are answered by the newer pipeline", multiprocess_mode="mostrecent"
)
enabled = Gauge("memory_enabled", "Whether memory is switched on", multiprocess_mode="mostrecent")
key_age_days = Gauge(
    "memory_key_age_days", "Days since this key became the one in use", ["key"], multiprocess_mode="mostrecent"
)
queue_wait_ms = Histogram(
    "memory_queue_wait_ms",
    "One caller's wait for a model, in milliseconds, until its first batch or until it gave up",
    ["model"],
    buckets=_INDEX_MS,
)
queue_batch = Histogram("memory_queue_batch", "Texts in one pass of a model", ["model"], buckets=_BATCH)
queue_failed = Counter("memory_queue_failed_total", "Passes of a model and turns of its queue that failed", ["model"])
queue_refusals = Counter(
    "memory_queue_refusals_total", "Callers that a model's queue had no room or no time for", ["model"]
)
# Summed over the workers that live.
queue_depth = Gauge(
    "memory_queue_depth",
    "Callers that wait for a model, those of the running batch included",
    ["model"],
    multiprocess_mode="livesum",
)
db_pool_max = Gauge("memory_db_pool_max", "Database connections that may be open at once", multiprocess_mode="livesum")
db_pool_size = Gauge("memory_db_pool_size", "Database connections open", multiprocess_mode="livesum")
db_pool_in_use = Gauge("memory_db_pool_in_use", "Database connections lent to threads", multiprocess_mode="livesum")
db_pool_waiting = Gauge("memory_db_pool_waiting", "Threads waiting for a connection", multiprocess_mode="livesum")


class QueueMeter:
    """What the queues before one model tell (`reranker.queue_meter.QueueMeter`); `model` is one of three names."""

    def __init__(self, model: Literal["embedding", "rerank", "spacy"]):
        self._depth = queue_depth.labels(model)
        self._wait_ms = queue_wait_ms.labels(model)
        self._batch = queue_batch.labels(model)
        self._refusals = queue_refusals.labels(model)
        self._failed = queue_failed.labels(model)

    def callers(self, more: int) -> None:
        self._depth.inc(more)

    def waited(self, seconds: float) -> None:
        self._wait_ms.observe(seconds * 1000)

    def batch(self, texts: int) -> None:
        self._batch.observe(texts)

    def refused(self) -> None:
        self._refusals.inc()

    def failed(self) -> None:
        self._failed.inc()
