"""A `Reranker` puts candidates in order: it picks the backend, asks it, and makes scores of the answer.

Longer than 250 lines on purpose: one class, whose outcome, counts and log lines must agree about each call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from reranker.backends import Backend
from reranker.backends.loading import load_backend
from reranker.batcher import Batcher, SkippedAfterAdmission
from reranker.config import BACKEND_CHOICES, DEFAULT_TIMEOUT_MS, BackendChoice, RerankConfig, enabled_by_environment
from reranker.faults import reason_of
from reranker.metrics import CallLog
from reranker.results import RerankedResult, RerankOutcome, RerankSkipped, candidate_order
from reranker.scores import best_first, sigmoid

logger = logging.getLogger(__name__)

_IDLE = {"state": "cold", "breaker": "closed", "stuck": False, "queued_pairs": 0, "queued_tokens": 0, "loads": 0}


class Reranker:
    """One process's model, behind its own thread, made when first asked for.

    Any thread may call. A fork's child starts with the same settings and no model; where the
    parent had begun to load a cross-encoder, the child has none, for torch's threads and CUDA's
    context did not come along.
    """

    def __init__(self, config: RerankConfig | None = None):
        self._config = config or RerankConfig()
        self._make_config: Callable[[], RerankConfig] | None = None
        self._lock = threading.RLock()
        self._batcher: Batcher | None = None
        self._log = CallLog()
        self._left_in_parent: list[Batcher] = []
        self._loaded_before_fork = False
        _everyone.add(self)

    def rerank(
        self,
        query: str,
        candidates: Sequence[Any],
        timeout_ms: float = DEFAULT_TIMEOUT_MS,
        backend: BackendChoice | None = None,
        owner: str | None = None,
    ) -> list[RerankedResult]:
        """All candidates, best first; a candidate is a str or has a `.text`.

        Scores are 0-1, the sigmoid of the cross-encoder's logit. Returns within `timeout_ms` of the call: past it, and
        where nothing can rerank, the candidates' own order, the i-th of n with score `1 - i / n`. `owner` is any name
        of whose turn it takes: owners take turns by tokens, and each has a share of the queue.
        Raises `ValueError` for a backend that is not one of `BACKEND_CHOICES`.
        """
        return self._reranked(query, candidates, timeout_ms, backend, owner).results

    def rerank_or_raise(
        self,
        query: str,
        candidates: Sequence[Any],
        timeout_ms: float = DEFAULT_TIMEOUT_MS,
        backend: BackendChoice | None = None,
    ) -> list[RerankedResult]:
        """As `rerank`, but raises `RerankSkipped` for the candidates' own order: for who measures or compares."""
        outcome = self._reranked(query, candidates, timeout_ms, backend, None)
        if outcome.skipped and outcome.skipped != "empty":
            raise RerankSkipped(outcome.skipped)
        return outcome.results

    def maybe_rerank(
        self,
        query: str,
        candidates: Sequence[Any],
        *,
        enabled: bool | None = None,
        timeout_ms: float = DEFAULT_TIMEOUT_MS,
        backend: BackendChoice | None = None,
        owner: str | None = None,
    ) -> RerankOutcome:
        """As `rerank`, unless it is switched off, and with the reason for the candidates' own order.

        `enabled`: None asks the settings' `is_enabled`. `backend` overrides the configured one.
        Raises only what a caller did wrong.
        """
        if not (self._is_enabled() if enabled is None else enabled):
            self._log.skipped("disabled", 0.0, asked_model=False)
            return RerankOutcome(candidate_order(candidates), False, "none", "disabled", 0.0)
        return self._reranked(query, candidates, timeout_ms, backend, owner)

    def warm(self, timeout_seconds: float | None = None) -> bool:
        """Load what the configured backend needs and wait for it; True if something is ready.

        False where there is no backend, where it cannot be loaded, or where `timeout_seconds` is
        over; a load goes on, and is tried again, in the background.
        """
        _, batcher = self._current(self.config.backend, start=True)
        return batcher is not None and batcher.runner.load.wait(timeout_seconds)

    def cross_encoder(self) -> Any:
        """The loaded model; waits for the load.

        A `sentence_transformers.CrossEncoder`, which only its own thread may run, or what runs its built form: an
        `onnxruntime.InferenceSession`, or an `openvino.InferRequest`, which only its own thread may run. Raises
        `RerankSkipped` with the reason where there is none.
        """
        batcher = self._started()
        if batcher is None:
            raise RerankSkipped("no_backend", "the model was loaded before the fork")
        if not batcher.runner.load.wait(None):
            raise RerankSkipped(batcher.runner.load.reason, batcher.runner.load.detail)
        return batcher.runner.load.result.model

    def ready_backend(self) -> Backend:
        """The backend that would be asked now; raises `RerankSkipped` where none is ready."""
        _, batcher = self._current(self.config.backend, start=True)
        if batcher is None or batcher.runner.backend is None:
            raise RerankSkipped("no_backend", self._why_none())
        return batcher.runner.backend

    def metrics(self, backend: BackendChoice | None = None) -> dict[str, Any]:
        """Counts and latencies of this process since it started, and how the backend stands.

        `backend` overrides the configured one, as in `rerank`. Latencies are of calls that asked a
        model; `p50`, `p95` and `max` are None before the first.
        """
        name, batcher = self._current(backend or self.config.backend, start=False)
        status = batcher.status() if batcher else {**_IDLE, "device": None, "detail": self._why_none()}
        return {**self._log.summary(), "backend": name, "model": self.config.model, **status}

    @property
    def config(self) -> RerankConfig:
        """The present settings; the first look after `configure_lazily` asks for them."""
        if self._make_config is not None:
            with self._lock:
                if self._make_config is not None:
                    self.configure(self._make_config())
        return self._config

    def configure_lazily(self, make_config: Callable[[], RerankConfig]) -> None:
        """Take the settings that `make_config` returns, which is not called before they are needed."""
        with self._lock:
            self._make_config = make_config

    def configure(self, config: RerankConfig) -> None:
        """Take new settings from the next call on; only what they change is loaded again."""
        with self._lock:
            self._make_config = None
            before, self._config = self._config, config
            outdated = None
            if before.cross_encoder_identity != config.cross_encoder_identity:
                outdated, self._batcher = self._batcher, None
        if outdated:
            outdated.close()

    def close(self) -> None:
        """Stop the threads and let go of the models; the next call starts again."""
        with self._lock:
            batcher, self._batcher = self._batcher, None
        if batcher:
            batcher.close()

    def _is_enabled(self) -> bool:
        try:
            return self.config.is_enabled()
        except Exception as error:  # it is somebody else's, and no query fails because of reranking
            logger.warning("whether to rerank cannot be asked (%s); the environment decides", type(error).__name__)
            return enabled_by_environment()

    def _reranked(
        self,
        query: str,
        candidates: Sequence[Any],
        timeout_ms: float,
        backend: BackendChoice | None,
        owner: str | None,
    ) -> RerankOutcome:
        started = time.monotonic()
        if backend is not None and backend not in BACKEND_CHOICES:
            raise ValueError(f"backend must be one of {', '.join(BACKEND_CHOICES)}")
        if not candidates:
            # No model is asked and nothing counted, so that users without memories change no rate and no latency.
            return RerankOutcome([], False, "none", "empty", 0.0)
        texts = [candidate if isinstance(candidate, str) else candidate.text for candidate in candidates]
        name = "none"
        try:
            name, batcher = self._current(backend or self.config.backend, start=True)
            if batcher is None:
                raise RerankSkipped("no_backend", self._why_none())
            values = batcher.score(query, texts, started, timeout_ms, owner)
        except Exception as error:
            reason = reason_of(error)
            took_ms = (time.monotonic() - started) * 1000
            self._log.skipped(reason, took_ms, asked_model=isinstance(error, SkippedAfterAdmission))
            return RerankOutcome(candidate_order(candidates), False, name, reason, took_ms)

        scores = sigmoid(values)
        # By value, not by score: the sigmoid of 40 and that of 50 are both 1.
        order = best_first(values)
        results = [RerankedResult(candidates[i], float(scores[i]), n) for n, i in enumerate(order, 1)]
        took_ms = (time.monotonic() - started) * 1000
        self._log.reranked(took_ms)
        return RerankOutcome(results, True, name, None, took_ms)

    def _current(self, backend: BackendChoice, start: bool) -> tuple[str, Batcher | None]:
        """The backend to ask, ready or not: it says why it is not."""
        batcher = None if backend == "none" else self._started() if start else self._batcher
        return ("none", None) if batcher is None else (batcher.name, batcher)

    def _started(self) -> Batcher | None:
        """The cross-encoder's thread, begun by the first call; None where the parent of this process had it."""
        if self._loaded_before_fork:
            return None
        batcher = self._batcher
        if batcher is None:
            with self._lock:
                batcher = self._batcher
                if batcher is None:
                    config = self.config
                    batcher = self._batcher = Batcher("cross_encoder", lambda: load_backend(config), config)
        return batcher

    def _why_none(self) -> str:
        if self._loaded_before_fork:
            return "the model was loaded before the fork"
        return "no backend is configured" if self.config.backend == "none" else ""

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._log = CallLog()
        if self._batcher is not None:
            self._loaded_before_fork = True
            # Kept, so that nothing of the parent's CUDA context is freed here.
            self._left_in_parent.append(self._batcher)
            self._batcher = None


_everyone: weakref.WeakSet[Reranker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for reranker in _everyone:
        reranker._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
