"""The embedding model as its built form is run on a CPU, by ONNX Runtime or by OpenVINO; torch is never imported.

ONNX Runtime reads every text alone. OpenVINO reads short ones together where a check at the start found their vectors
the same to the bit as alone: no vector depends on another user's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from memory.embedding.built_form import Manifest
from memory.embedding.job import Task
from memory.errors import ModelUnavailable

# Of a probe's vector to the one that torch gives: float32's rounding alone is below 0.000001, bfloat16's 0.00004.
COSINE_MIN = 0.9999


class Reader(Protocol):
    """What runs the graph: the form's path and threads are its own."""

    runtime: str
    # So much `cost` is asked of it at once: it is what a query may have to wait for.
    batch_tokens: int
    # As a `memory.embedding.backends.Model`'s.
    is_one_thread: bool

    def cost(self, tokens: int) -> int:
        """How many are computed for a text of so many, padding included."""

    def read(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """float32[d] of unit length for the tokens of each text, in their order; one caller at a time."""

    def warm(self, most_tokens: int) -> None:
        """Make what the first texts of up to so many tokens would have to wait for."""

    def close(self) -> None:
        """Nobody reads any more: end what works by itself."""


class BuiltEmbeddingModel:
    """Of the same use as `EmbeddingModel`, on a CPU.

    `encode` has one caller at a time, the rest any number. `max_tokens` as there. Raises ModelUnavailable where
    this processor does not give what the weights give.
    """

    device = "cpu"
    full_tokens = 256

    def __init__(self, folder: Path, manifest: Manifest, max_tokens: int, reader: Reader):
        from tokenizers import Tokenizer

        self.weights_sha256 = manifest.weights_sha256
        self.dimension = manifest.dimension
        self.runtime = reader.runtime
        self.batch_tokens = reader.batch_tokens
        self.is_one_thread = reader.is_one_thread
        self._reader = reader
        self._prompts = manifest.prompts
        self._max_seq_length = min(max_tokens, manifest.positions)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        prompt_tokens = len(self.tokenizer.encode(self._prompts["passage"], add_special_tokens=False))
        self.passage_tokens = self._max_seq_length - prompt_tokens
        self._special_tokens = self.tokenizer.num_special_tokens_to_add(False)
        self._require_likeness(manifest)
        reader.warm(self._max_seq_length)

    def prepared(self, task: Task, text: str) -> np.ndarray:
        """The ids of a text with the model's own prompt for the task, int32, cut to what it reads."""
        return self._cut(self._prompts[task] + text, self._max_seq_length)

    def cost_tokens(self, text: np.ndarray) -> int:
        """Tokens the model will compute for a text that is prepared, padding included."""
        return self._reader.cost(len(text))

    def encode(self, task: Task, texts: Sequence[str | np.ndarray]) -> np.ndarray:
        """float32[n, d] of unit length in the order of `texts`, each as it is or prepared for the task."""
        ids = [self.prepared(task, text) if isinstance(text, str) else text for text in texts]
        return np.stack(self._reader.read(ids))

    def close(self) -> None:
        """Nobody encodes any more."""
        self._reader.close()

    def _cut(self, text: str, tokens: int) -> np.ndarray:
        """The ids of a text, of which the first are left that are so many with the special ones.

        By the tokenizer that cuts none: one that does would be a second one, of some 8 MB.
        """
        # `encode` would keep the interpreter for itself: 10 ms for a long text of combining marks.
        [encoding] = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        encoding.truncate(max(0, tokens - self._special_tokens))
        return np.array(self.tokenizer.post_process(encoding).ids, dtype=np.int32)

    def _require_likeness(self, manifest: Manifest) -> None:
        # They are read as far as the model can, texts as far as it may. Their vectors were made without prompts.
        rows = self._reader.read([self._cut(text, manifest.positions) for text, _ in manifest.probes])
        cosines = [float(row @ np.array(vector)) for row, (_, vector) in zip(rows, manifest.probes, strict=True)]
        if not min(cosines) >= COSINE_MIN:
            raise ModelUnavailable(
                f"The embedding model's built form, run by {self.runtime}, gives other vectors on this processor than "
                f"the weights (cosine {min(cosines):.4f} at worst). MEMORY_EMBED_BACKEND=torch does without it."
            )
