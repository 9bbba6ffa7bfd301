"""Reranking with a hard time budget: the last step, which decides what a user sees.

The functions here use one `Reranker` per process. Importing this package imports no model library
and starts no thread; `warm()` or the first call does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from reranker.config import (
    BACKEND_CHOICES,
    BACKENDS,
    DEFAULT_MODEL,
    DEFAULT_TIMEOUT_MS,
    BackendChoice,
    RerankConfig,
)
from reranker.reranker import Reranker
from reranker.results import REASONS, Reason, RerankedResult, RerankOutcome, RerankSkipped

__all__ = [
    "BACKENDS",
    "BACKEND_CHOICES",
    "DEFAULT_MODEL",
    "REASONS",
    "BackendChoice",
    "Reason",
    "RerankConfig",
    "RerankOutcome",
    "RerankSkipped",
    "RerankedResult",
    "Reranker",
    "amaybe_rerank",
    "arerank",
    "close",
    "configure",
    "configure_lazily",
    "get_cross_encoder",
    "get_rerank_metrics",
    "maybe_rerank",
    "rerank",
    "warm",
]

_process_reranker = Reranker()


def rerank(
    query: str, candidates: Sequence[Any], timeout_ms: float = DEFAULT_TIMEOUT_MS, *, owner: str | None = None
) -> list[RerankedResult]:
    """All candidates, best first, or past `timeout_ms` in their own order; see `Reranker.rerank`."""
    return _process_reranker.rerank(query, candidates, timeout_ms, owner=owner)


def maybe_rerank(
    query: str,
    candidates: Sequence[Any],
    *,
    enabled: bool | None = None,
    timeout_ms: float = DEFAULT_TIMEOUT_MS,
    backend: BackendChoice | None = None,
    owner: str | None = None,
) -> RerankOutcome:
    """As `rerank` if RERANK_ENABLED: the candidates in order, and why where it is their own; see `RerankOutcome`."""
    return _process_reranker.maybe_rerank(
        query, candidates, enabled=enabled, timeout_ms=timeout_ms, backend=backend, owner=owner
    )


async def arerank(
    query: str, candidates: Sequence[Any], timeout_ms: float = DEFAULT_TIMEOUT_MS, *, owner: str | None = None
) -> list[RerankedResult]:
    """`rerank` in another thread, so that the event loop goes on; waiting for the thread is part of `timeout_ms`."""
    give_up = time.monotonic() + timeout_ms / 1000
    return await asyncio.to_thread(lambda: rerank(query, candidates, _ms_until(give_up), owner=owner))


async def amaybe_rerank(
    query: str,
    candidates: Sequence[Any],
    *,
    enabled: bool | None = None,
    timeout_ms: float = DEFAULT_TIMEOUT_MS,
    backend: BackendChoice | None = None,
    owner: str | None = None,
) -> RerankOutcome:
    """`maybe_rerank` in another thread, as `arerank`."""
    give_up = time.monotonic() + timeout_ms / 1000
    return await asyncio.to_thread(
        lambda: maybe_rerank(
            query, candidates, enabled=enabled, timeout_ms=_ms_until(give_up), backend=backend, owner=owner
        )
    )


def _ms_until(moment: float) -> float:
    return max(0.0, moment - time.monotonic()) * 1000


def get_cross_encoder() -> Any:
    """The loaded model; see `Reranker.cross_encoder`."""
    return _process_reranker.cross_encoder()


def get_rerank_metrics(backend: BackendChoice | None = None) -> dict[str, Any]:
    """This process's counts, latencies and state; see `Reranker.metrics`."""
    return _process_reranker.metrics(backend)


def configure(config: RerankConfig) -> None:
    """Take new settings; see `Reranker.configure`."""
    _process_reranker.configure(config)


def configure_lazily(make_config: Callable[[], RerankConfig]) -> None:
    """Take the settings that `make_config` returns, at the first call that needs them."""
    _process_reranker.configure_lazily(make_config)


def warm(timeout_seconds: float | None = None) -> bool:
    """Load and warm the model in this process, after its fork; see `Reranker.warm`."""
    return _process_reranker.warm(timeout_seconds)


def close() -> None:
    """Stop the threads and let go of the models; the next call starts again."""
    _process_reranker.close()
