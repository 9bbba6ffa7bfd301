"""The embedding model as ONNX Runtime runs it, from its built form; torch is never imported.

Every text goes through the graph alone: no padding is computed, and nothing of its vector can depend on another user's
text beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from memory.embedding.built_form import Manifest
from memory.embedding.job import Task
from memory.errors import ModelUnavailable
from reranker.onnx_graph import cpu_threads, session

# Of a probe's vector to the one that torch gives: rounding alone is below 0.000001.
COSINE_MIN = 0.9999
# A shorter text gains next to nothing from a second thread: several of these are read side by side instead.
_SHORT_TOKENS = 128


class OnnxEmbeddingModel:
    """Of the same use as `EmbeddingModel`, on a CPU.

    `encode` has one caller at a time; `count_tokens` any number. `max_tokens` as there. Raises ModelUnavailable where
    this processor does not give what the weights give.
    """

    runtime = "onnx"
    device = "cpu"
    # Texts are read alone, so a batch gains nothing but two threads for short ones.
    batch_tokens = 128
    full_tokens = 256

    def __init__(self, folder: Path, manifest: Manifest, max_tokens: int):
        from tokenizers import Tokenizer

        self.weights_sha256 = manifest.weights_sha256
        self.dimension = manifest.dimension
        self._prompts = manifest.prompts
        self._max_seq_length = min(max_tokens, manifest.positions)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        prompt_tokens = len(self.tokenizer.encode(self._prompts["passage"], add_special_tokens=False))
        self.passage_tokens = self._max_seq_length - prompt_tokens
        self._reading = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._reading.no_padding()
        threads = cpu_threads()
        # One for all: each holds all weights.
        self._session = session(folder / "model.onnx", threads)
        self._pool = ThreadPoolExecutor(threads, "onnx") if threads > 1 else None
        # The probes are read as far as the model can, texts as far as it may.
        self._reading.enable_truncation(manifest.positions)
        self._require_likeness(manifest)
        self._reading.enable_truncation(self._max_seq_length)

    def count_tokens(self, text: str) -> int:
        """Tokens the model will read, special ones included; any thread may ask."""
        return min(len(_ids(self.tokenizer, [text])[0]), self._max_seq_length)

    def encode(self, task: Task, texts: Sequence[str]) -> np.ndarray:
        """float32[n, d] of unit length in the order of `texts`, with the model's own prompt for the task."""
        read = _ids(self._reading, [self._prompts[task] + text for text in texts])
        if self._pool is not None and len(read) > 1 and max(map(len, read)) <= _SHORT_TOKENS:
            return np.stack(list(self._pool.map(self._run, read)))
        return np.stack([self._run(ids) for ids in read])

    def _run(self, ids: list[int]) -> np.ndarray:
        [rows] = self._session.run(None, {"input_ids": np.array([ids], dtype=np.int64)})
        return rows[0]

    def _require_likeness(self, manifest: Manifest) -> None:
        # Their vectors were made without prompts.
        rows = map(self._run, _ids(self._reading, [text for text, _ in manifest.probes]))
        cosines = [float(row @ np.array(vector)) for row, (_, vector) in zip(rows, manifest.probes, strict=True)]
        if not min(cosines) >= COSINE_MIN:
            raise ModelUnavailable(
                "The embedding model's built form gives other vectors on this processor than the weights "
                f"(cosine {min(cosines):.4f} at worst). "
                "Set MEMORY_EMBED_BACKEND=torch."
            )


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """As `encode(text).ids`, which would keep the interpreter for itself: 10 ms for a long text of combining marks."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
