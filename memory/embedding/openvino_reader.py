"""The graph of a built form as OpenVINO runs it, in bfloat16 (reranker/openvino_graph.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reranker.onnx_graph import cpu_threads
from reranker.openvino_graph import OpenvinoGraph

# More were not measured, and of a short text there is little to share.
_THREADS_MAX = 2
_SHORT_BOUND = 64


def threads_a_text() -> int:
    """How many compute a text together, of those that a worker has."""
    return min(cpu_threads(), _THREADS_MAX)


class OpenvinoReader:
    """A `memory.embedding.built_model.Reader`. Raises ImportError without OpenVINO.

    Short texts that are read together have the vectors that each has alone, to the bit.
    """

    runtime = "openvino"
    batch_tokens = 512

    def __init__(self, form: Path, positions: int, threads: int | None = None):
        """`positions` is the most tokens that the graph can read; `threads` is by default `threads_a_text`."""
        self.graph = OpenvinoGraph(form, ["input_ids"], positions, threads or threads_a_text(), _SHORT_BOUND)

    def cost(self, tokens: int) -> int:
        return self.graph.cost(tokens)

    def read(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.graph.read([(ids,) for ids in texts])

    def warm(self, most_tokens: int) -> None:
        self.graph.warm(most_tokens)
