"""A built cross-encoder's graph as ONNX Runtime runs it, in int8 or float32.

Every pair goes through it alone. It is padded to no other's length, and in int8, where a pass has one scale for all
that is in it, its score would depend, a little, on passages of other users.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reranker.backends import Pair
from reranker.backends.pair_tokenizer import numbers_of
from reranker.onnx_graph import session


class OnnxPairs:
    """A `reranker.backends.built_form.Graph`, of the file at `path`; any thread may use it. Raises ImportError."""

    threads = 1

    def __init__(self, path: Path, inputs: Sequence[str], dtype: str):
        self.dtype = dtype
        self.model: Any = session(path, self.threads)
        self._inputs = inputs

    def cost(self, tokens: int) -> int:
        return tokens

    def logits(self, pairs: Sequence[Pair]) -> np.ndarray:
        return np.array([self._logit(pair) for pair in pairs], dtype=np.float32)

    def _logit(self, pair: Pair) -> float:
        read = zip(self._inputs, numbers_of(pair, self._inputs), strict=True)
        [[logit]] = self.model.run(None, {name: np.array([numbers], dtype=np.int64) for name, numbers in read})
        return logit

    def warm(self, most_tokens: int) -> None:
        """There is nothing to make."""
