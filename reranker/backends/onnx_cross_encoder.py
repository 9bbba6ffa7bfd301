"""A cross-encoder as ONNX Runtime runs it, from its built form, on a CPU; torch is never imported.

Every pair goes through the graph alone. It is padded to no other's length, and in int8, where a pass has one scale for
all that is in it, its score would depend, a little, on passages of other users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reranker.backends import Pair
from reranker.backends.onnx_form import GRAPH, Graph, Place, is_like, probed
from reranker.backends.parallel_passes import ParallelPasses
from reranker.faults import LoadFailure
from reranker.onnx_graph import cpu_threads

# Pairs gain nothing from each other's company, so a pass is what keeps each thread busy for some milliseconds.
BATCH_TOKENS_PER_THREAD = 1_024
# What another processor may add to what int8 does; beyond it something is wrong.
_SLACK = 1.5


class OnnxCrossEncoderBackend:
    """Scores are logits.

    Raises `LoadFailure` where there is no form of these weights, it is damaged, or this processor does not give what
    the weights give.
    """

    name = "cross_encoder"
    runtime = "onnx"
    device = "cpu"

    def __init__(
        self, place: Place, max_tokens: int, batch_tokens: int | None = None, parallel_passes: int | None = None
    ):
        manifest = place.manifest()
        self._graph = Graph(place.form / GRAPH, manifest)
        if not is_like(*probed(self._graph, manifest), slack=_SLACK):
            raise LoadFailure(
                "no_backend", "the model's built form gives other scores on this processor than the weights"
            )
        self.dtype = manifest.dtype
        self.weights_sha256: str | None = manifest.weights_sha256
        self.max_tokens = min(max_tokens, manifest.positions)
        self._graph.read_at_most(self.max_tokens)
        self.model: Any = self._graph.session
        threads = parallel_passes or cpu_threads()
        self.batch_tokens = batch_tokens or BATCH_TOKENS_PER_THREAD * threads
        self._parallel = ParallelPasses(threads, lambda threads: None, least_pairs=1) if threads > 1 else None

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        return self._graph.prepare(query, texts, deadline)

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        return self._parallel.score(self._graph.logits, pairs) if self._parallel else self._graph.logits(pairs)

    def release_memory(self) -> None:
        """There is no device to give it back to."""

    def close(self) -> None:
        if self._parallel:
            self._parallel.close()
