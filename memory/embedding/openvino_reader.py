"""The graph of a built form as OpenVINO runs it, in bfloat16 (reranker/openvino_graph.py)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reranker.loader import cpu_flags
from reranker.onnx_graph import cpu_threads
from reranker.openvino_graph import OpenvinoGraph, Row

logger = logging.getLogger(__name__)

# More were not measured, and of a short text there is little to share.
_THREADS_MAX = 2
_SHORT_BOUND = 64
# Where a question has one thread, a text of more tokens is read by a graph with all: that of a document.
_LONG_BOUND = 320


def threads_a_text() -> int:
    """How many compute a long text together, of those that a worker has."""
    return min(cpu_threads(), _THREADS_MAX)


def threads_a_question(threads: int) -> int:
    """How many of `threads` compute a text of up to _LONG_BOUND tokens.

    By AMX one: a second one takes little off it, and the other core looks its words up meanwhile.
    """
    return 1 if "amx_bf16" in cpu_flags() else threads


class OpenvinoReader:
    """A `memory.embedding.built_model.Reader`. Raises ImportError without OpenVINO.

    Short texts that are read together have the vectors that each has alone, to the bit. A graph has its threads for
    good: where a question has fewer than a document, that one's long texts have a graph of their own, made for the
    first of them.
    """

    runtime = "openvino"
    batch_tokens = 512

    def __init__(self, form: Path, positions: int, threads: int | None = None):
        """`positions` is the most tokens that the graph can read; `threads` is by default `threads_a_text`."""
        self._form, self._positions, self._threads = form, positions, threads or threads_a_text()
        of_a_question = threads_a_question(self._threads)
        self.graph = OpenvinoGraph(form, ["input_ids"], positions, of_a_question, _SHORT_BOUND)
        self._has_one_graph = of_a_question == self._threads or positions <= _LONG_BOUND
        self._long_graph: OpenvinoGraph | None = None

    def cost(self, tokens: int) -> int:
        return self.graph.cost(tokens)

    def read(self, texts: Sequence[list[int]]) -> list[np.ndarray]:
        rows: list[Row] = [(ids,) for ids in texts]
        long = [] if self._has_one_graph else [row for row in rows if len(row[0]) > _LONG_BOUND]
        if not long:
            return self.graph.read(rows)
        found_long = iter(self._graph_for_long().read(long))
        found = iter(self.graph.read([row for row in rows if len(row[0]) <= _LONG_BOUND]))
        return [next(found_long if len(row[0]) > _LONG_BOUND else found) for row in rows]

    def warm(self, most_tokens: int) -> None:
        self.graph.warm(most_tokens if self._has_one_graph else min(most_tokens, _LONG_BOUND))

    def _graph_for_long(self) -> OpenvinoGraph:
        if self._long_graph is None:
            try:
                graph = OpenvinoGraph(self._form, ["input_ids"], self._positions, self._threads, 0)
                graph.warm(self._positions, least_tokens=_LONG_BOUND + 1)
            except Exception:
                logger.warning("long texts are embedded by one thread, more slowly", exc_info=True)
                self._has_one_graph, graph = True, self.graph
            self._long_graph = graph
        return self._long_graph
