"""The model in the hands of its owner thread: loaded, warmed, measured, run and probed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from reranker import metrics
from reranker.backends import Backend, Pair, synthetic_pairs
from reranker.config import RerankConfig
from reranker.faults import out_of_memory, reason_of
from reranker.loader import Load
from reranker.pass_time import PassTime

logger = logging.getLogger(__name__)

_PROBE_PAIRS, _PROBE_WORDS = 8, 96
_MEASURED_RUNS = 3


class Runner:
    """One thread loads and runs; any thread may read the estimates and what is running.

    `make` gives the backend; it is called by `load.run()`.
    """

    def __init__(self, make: Callable[[], Backend], config: RerankConfig):
        self.load = Load(lambda: self._warmed(make()), config.reload_after_seconds)
        self._batch_pairs = config.batch_pairs
        self._pass_time = PassTime()
        self._probe_pairs: list[Pair] = []
        self._running: tuple[float, float] | None = None  # since when, estimated seconds
        self.ended_at = 0.0

    @property
    def backend(self) -> Backend | None:
        return self.load.result

    @property
    def loaded_backend(self) -> Backend:
        """The backend, for what comes after the load. Raises LookupError where there is none."""
        if self.backend is None:
            raise LookupError("the reranker's model is not loaded")
        return self.backend

    def seconds_for(self, tokens: int) -> float:
        """Estimate for that many tokens, in as many passes as they take."""
        return self._pass_time.seconds(tokens, math.ceil(tokens / self.loaded_backend.batch_tokens))

    def seconds_left(self) -> float:
        """Estimate for the rest of the running pass; 0 when none runs or it is overdue."""
        running = self._running
        return max(0.0, running[0] + running[1] - time.monotonic()) if running else 0.0

    def running_seconds(self) -> float:
        """How long the running pass has been running; 0 when none does."""
        running = self._running
        return time.monotonic() - running[0] if running else 0.0

    def scores(self, pairs: list[Pair]) -> np.ndarray:
        """float32[n], finite; raises whatever the model does. The time it takes moves the estimate."""
        tokens = _padded_tokens(pairs)
        scores, seconds = self._timed(pairs, self._pass_time.seconds(tokens))
        self._pass_time.observe(tokens, seconds)
        return scores

    def probe(self, limit_seconds: float) -> bool:
        """Run a synthetic batch; True if it was well and in time; then the estimate rests on it alone."""
        try:
            _, seconds = self._timed(self._probe_pairs, 0.0)
        except BaseException as error:
            metrics.failed.labels(reason_of(error)).inc()
            logger.warning("the reranker's probe failed: %s", type(error).__name__)
            return False
        if seconds > limit_seconds:
            return False
        self._pass_time.start_again(_padded_tokens(self._probe_pairs), seconds)
        return True

    def _timed(self, pairs: list[Pair], estimate: float) -> tuple[np.ndarray, float]:
        started = time.monotonic()
        self._running = started, estimate
        try:
            scores = self._in_memory(pairs)
        finally:
            self._running, self.ended_at = None, time.monotonic()
        if len(scores) != len(pairs) or not np.isfinite(scores).all():
            raise RuntimeError("the model returned scores that cannot be ranked")
        return scores, self.ended_at - started

    def _in_memory(self, pairs: list[Pair]) -> np.ndarray:
        """A batch that does not fit in memory is tried once more, in halves."""
        try:
            return self.loaded_backend.score(pairs)
        except Exception as error:
            if not out_of_memory(error) or len(pairs) == 1:
                raise
        # Outside the handler, for its traceback holds on to tensors.
        backend = self.loaded_backend
        backend.release_memory()
        half = len(pairs) // 2
        return np.concatenate([backend.score(pairs[:half]), backend.score(pairs[half:])])

    def _warmed(self, backend: Backend) -> Backend:
        """Run the model until it has nothing left to set up, and measure it."""
        self._probe_pairs = synthetic_pairs(backend, _PROBE_PAIRS, _PROBE_WORDS)
        full = synthetic_pairs(backend, self._batch_pairs, backend.max_tokens)
        backend.score(full[: max(1, backend.batch_tokens // full[0].tokens)])
        measured = []
        for pairs in (synthetic_pairs(backend, 1, 8), self._probe_pairs):
            backend.score(pairs)
            measured.append((_padded_tokens(pairs), min(_seconds(backend, pairs) for _ in range(_MEASURED_RUNS))))
        self._pass_time.calibrate(*measured)
        return backend


def _padded_tokens(pairs: Sequence[Pair]) -> int:
    return len(pairs) * max(pair.tokens for pair in pairs)


def _seconds(backend: Backend, pairs: list[Pair]) -> float:
    started = time.monotonic()
    backend.score(pairs)
    return time.monotonic() - started
