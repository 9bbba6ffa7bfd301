"""A cross-encoder as OpenVINO or ONNX Runtime runs it, from its built form, on a CPU; torch is never imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from reranker.backends import Pair
from reranker.backends.built_form import ONNX, OPENVINO, Graph, Manifest, Place, is_like, pair_tokenizer, probed
from reranker.backends.parallel_passes import ParallelPasses
from reranker.faults import LoadFailure
from reranker.onnx_graph import cpu_threads

BuiltRuntime = Literal["openvino", "onnx"]

# Pairs gain little from each other's company, so a pass is what keeps each thread busy for some milliseconds.
BATCH_TOKENS_PER_THREAD = 1_024
# What another processor may add to what a narrower dtype does; beyond it something is wrong.
_SLACK = 1.5


class BuiltCrossEncoderBackend:
    """Scores are logits.

    Raises `LoadFailure` where there is no form of these weights for `runtime`, it is damaged, or this processor does
    not give what the weights give; ImportError without the package.
    """

    name = "cross_encoder"
    device = "cpu"

    def __init__(
        self,
        place: Place,
        runtime: BuiltRuntime,
        max_tokens: int,
        batch_tokens: int | None = None,
        parallel_passes: int | None = None,
    ):
        manifest, threads = place.manifest(), parallel_passes or cpu_threads()
        self._graph = _graph(runtime, place, manifest, threads)
        if not is_like(*probed(self._graph, place.form, manifest), slack=_SLACK):
            raise LoadFailure(
                "no_backend", "the model's built form gives other scores on this processor than the weights"
            )
        self.runtime: str = runtime
        self.dtype = self._graph.dtype
        self.weights_sha256: str | None = manifest.weights_sha256
        self.max_tokens = min(max_tokens, manifest.positions)
        self._tokenizer = pair_tokenizer(place.form, self.max_tokens)
        self._graph.warm(self.max_tokens)
        self.model: Any = self._graph.model
        self.batch_tokens = batch_tokens or BATCH_TOKENS_PER_THREAD * threads
        # A graph with threads of its own is one pass on all of them.
        passes = threads // self._graph.threads
        self._parallel = ParallelPasses(passes, lambda threads: None, least_pairs=1) if passes > 1 else None

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        pairs = self._tokenizer.prepare(query, texts, deadline)
        return [replace(pair, tokens=self._graph.cost(pair.tokens)) for pair in pairs]

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        return self._parallel.score(self._graph.logits, pairs) if self._parallel else self._graph.logits(pairs)

    def release_memory(self) -> None:
        """There is no device to give it back to."""

    def close(self) -> None:
        if self._parallel:
            self._parallel.close()


def _graph(runtime: BuiltRuntime, place: Place, manifest: Manifest, threads: int) -> Graph:
    if runtime == "onnx":
        from reranker.backends.onnx_pairs import OnnxPairs

        return OnnxPairs(place.form / ONNX, manifest.inputs, manifest.dtype)
    if OPENVINO not in manifest.digests:
        raise LoadFailure("no_backend", "the model's built form has no graph for OpenVINO")
    from reranker.backends.openvino_pairs import OpenvinoPairs

    return OpenvinoPairs(place.form, manifest, threads)
