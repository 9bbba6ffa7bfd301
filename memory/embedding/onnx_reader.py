"""The graph of a built form as ONNX Runtime runs it, in float32: on any CPU."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from memory.embedding.built_form import ONNX
from reranker.onnx_graph import session

# A shorter text gains next to nothing from a second thread: several of these are read side by side instead.
_SHORT_TOKENS = 128


class OnnxReader:
    """A `memory.embedding.built_model.Reader`; no padding is computed. Raises ImportError without ONNX Runtime."""

    runtime = "onnx"
    batch_tokens = 128
    is_one_thread = False

    def __init__(self, form: Path, threads: int):
        # One session for all threads: each holds all weights.
        self._session = session(form / ONNX, threads)
        self._pool = ThreadPoolExecutor(threads, "onnx") if threads > 1 else None

    def cost(self, tokens: int) -> int:
        return tokens

    def read(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self._pool is not None and len(texts) > 1 and max(map(len, texts)) <= _SHORT_TOKENS:
            return list(self._pool.map(self._read, texts))
        return list(map(self._read, texts))

    def warm(self, most_tokens: int) -> None:
        """Nothing here is made by length."""

    def close(self) -> None:
        """Nothing here works by itself."""

    def _read(self, ids: np.ndarray) -> np.ndarray:
        [rows] = self._session.run(None, {"input_ids": np.array([ids], dtype=np.int64)})
        return rows[0]
