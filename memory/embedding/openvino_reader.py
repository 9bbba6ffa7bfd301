"""The graph of a built form as OpenVINO runs it, in bfloat16 (reranker/openvino_graph.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from memory.embedding.document_graph import DocumentGraph
from reranker.loader import cpu_flags
from reranker.onnx_graph import cpu_threads
from reranker.openvino_graph import OpenvinoGraph

# More were not measured, and of a short text there is little to share.
_THREADS_MAX = 2
_SHORT_BOUND = 64
# A text of more tokens is a document's, where such texts have a graph of their own.
_LONG_BOUND = 320


def threads_a_text() -> int:
    """How many compute a text together, of those that a worker has."""
    return min(cpu_threads(), _THREADS_MAX)


def threads_a_question(threads: int) -> int:
    """How many of `threads` compute a text that is not long.

    By AMX one: a second takes little off it, and the other core looks its words up meanwhile.
    """
    return 1 if "amx_bf16" in cpu_flags() else threads


class OpenvinoReader:
    """A `memory.embedding.built_model.Reader`. Raises ImportError without OpenVINO.

    Short texts that are read together have the vectors that each has alone, to the bit. Where a question has fewer
    threads than there are, a document's long texts have a graph with all of them (document_graph.py).
    """

    runtime = "openvino"
    batch_tokens = 512

    def __init__(self, form: Path, positions: int, threads: int | None = None):
        """`positions` is the most tokens that the graph can read; `threads` is by default `threads_a_text`."""
        threads = threads or threads_a_text()
        of_a_question = threads_a_question(threads)
        self.graph = OpenvinoGraph(form, ["input_ids"], positions, of_a_question, _SHORT_BOUND)
        self.is_one_thread = of_a_question == 1
        self._for_documents: DocumentGraph | None = None
        if threads > of_a_question and positions > _LONG_BOUND:
            self._for_documents = DocumentGraph(partial(_for_documents, form, positions, threads))

    def cost(self, tokens: int) -> int:
        return self.graph.cost(tokens)

    def read(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        documents = self._for_documents
        if documents is None or max(map(len, texts)) <= _LONG_BOUND:
            return self.graph.read([(ids,) for ids in texts])
        # Each alone: two long ones are more than `batch_tokens`.
        found = []
        for ids in texts:
            graph = (documents.wanted() if len(ids) > _LONG_BOUND else None) or self.graph
            found += graph.read([(ids,)])
        return found

    def warm(self, most_tokens: int) -> None:
        self.graph.warm(most_tokens)

    def close(self) -> None:
        if self._for_documents is not None:
            self._for_documents.close()


def _for_documents(form: Path, positions: int, threads: int) -> OpenvinoGraph:
    graph = OpenvinoGraph(form, ["input_ids"], positions, threads, 0)
    graph.warm(positions, least_tokens=_LONG_BOUND + 1)
    return graph
