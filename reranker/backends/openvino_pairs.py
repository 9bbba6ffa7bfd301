"""A built cross-encoder's graph as OpenVINO runs it, in bfloat16 (reranker/openvino_graph.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reranker.backends import Pair
from reranker.backends.built_form import Manifest
from reranker.backends.pair_tokenizer import numbers_of
from reranker.openvino_graph import OpenvinoGraph

# Turns of conversations and their questions. Kernels for more are some megabytes, which what is longer seldom needs.
_TOGETHER_UP_TO = 128


class OpenvinoPairs:
    """A `reranker.backends.built_form.Graph`, of the folder `form`; one caller at a time. Raises ImportError."""

    def __init__(self, form: Path, manifest: Manifest, threads: int):
        self.threads = threads
        self._graph = OpenvinoGraph(form, manifest.inputs, manifest.positions, threads, _TOGETHER_UP_TO)
        self.model: Any = self._graph.request
        self.dtype = self._graph.dtype
        self._inputs = manifest.inputs
        *weights, self._bias = manifest.head
        self._weights = np.array(weights, dtype=np.float32)

    def cost(self, tokens: int) -> int:
        return self._graph.cost(tokens)

    def logits(self, pairs: Sequence[Pair]) -> np.ndarray:
        rows = self._graph.read([numbers_of(pair, self._inputs) for pair in pairs])
        # Each row by itself: of several at once a sum may have another order.
        return np.array([row @ self._weights + self._bias for row in rows], dtype=np.float32)

    def warm(self, most_tokens: int) -> None:
        self._graph.warm(most_tokens)
