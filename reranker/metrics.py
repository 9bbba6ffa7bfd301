"""What reranking costs and why it was skipped: for Prometheus, and for this process.

No label ever carries a text or an id.
"""

from __future__ import annotations

import threading
from collections import Counter as Counts
from collections import deque
from typing import Any

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from reranker.results import Reason

_MS = (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 40, 50, 75, 100, 125, 150, 175, 200, 225, 250, 275, 300, 400, 500, 1000, 5000)
_PAIRS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
# Of the state gauge: the largest of the workers' values is shown.
BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}
_RECENT_CALLS = 1_024

rerank_ms = Histogram("rerank_ms", "What reranking added to a call that a model was asked for, in ms", buckets=_MS)
rerank_skipped = Counter("rerank_skipped_total", "Calls answered in candidate order, by reason", ["reason"])
failed = Counter("rerank_failed_total", "Passes, probes and turns of the queue that failed, by reason", ["reason"])
batch_pairs = Histogram("rerank_batch_pairs", "Pairs in one forward pass", buckets=_PAIRS)
batch_ms = Histogram("rerank_batch_ms", "One forward pass over users' pairs, in milliseconds", buckets=_MS)
loads = Counter("rerank_loads_total", "Models loaded and warmed; one a worker, unless settings change", ["backend"])
breaker_state = Gauge(
    "rerank_breaker_state",
    "0 closed, 1 half-open, 2 open; of the worker where it is worst",
    ["backend"],
    multiprocess_mode="livemax",
)


class CallLog:
    """This process's calls: how many, which reasons, and how long the latest thousand took."""

    def __init__(self):
        self._lock = threading.Lock()
        self._skipped: Counts[Reason] = Counts()
        self._reranked = 0
        self._recent_ms: deque[float] = deque(maxlen=_RECENT_CALLS)

    def reranked(self, took_ms: float) -> None:
        with self._lock:
            self._reranked += 1
            self._recent_ms.append(took_ms)
        rerank_ms.observe(took_ms)

    def skipped(self, reason: Reason, took_ms: float, asked_model: bool) -> None:
        """`asked_model` is False for a call that was refused at once."""
        with self._lock:
            self._skipped[reason] += 1
            if asked_model:
                self._recent_ms.append(took_ms)
        rerank_skipped.labels(reason).inc()
        if asked_model:
            rerank_ms.observe(took_ms)

    def summary(self) -> dict[str, Any]:
        with self._lock:
            skipped, reranked, recent_ms = dict(self._skipped), self._reranked, list(self._recent_ms)
        p50, p95, most = np.percentile(recent_ms, [50, 95, 100]).round(2).tolist() if recent_ms else (None,) * 3
        return {
            "rerank_total": reranked,
            "rerank_skipped_total": sum(skipped.values()),
            "rerank_skipped": skipped,
            "rerank_latency_ms": {"p50": p50, "p95": p95, "max": most},
        }
