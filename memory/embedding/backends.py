"""What runs the embedding model: ONNX Runtime on a CPU, torch on a GPU and where there is no built form."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from memory.embedding.built_form import COMMAND, form_folder, read_manifest
from memory.embedding.job import Task
from memory.errors import ModelUnavailable
from reranker.loader import has_gpu
from reranker.model_files import expected_weights, files_digest

logger = logging.getLogger(__name__)

BackendChoice = Literal["auto", "onnx", "torch"]
BACKEND_CHOICES: tuple[BackendChoice, ...] = get_args(BackendChoice)


class Model(Protocol):
    """A loaded model, as `memory.embedding.model.EmbeddingModel` describes it."""

    weights_sha256: str
    runtime: str  # `onnx` or `torch`
    device: str
    # So much is asked of it at once: it is what a query may have to wait for. From `full_tokens` on a batch tells what
    # a token takes.
    batch_tokens: int
    full_tokens: int
    dimension: int
    passage_tokens: int
    tokenizer: Any

    def count_tokens(self, text: str) -> int: ...

    def encode(self, task: Task, texts: list[str]) -> np.ndarray | list[np.ndarray]: ...


def load_model(
    folder: Path,
    *,
    backend: BackendChoice,
    models: Path | None,
    sha256: str | None,
    files_sha256: str | None,
    max_tokens: int,
    device: str | None,
    dtype: str,
) -> Model:
    """The model in `folder` by the backend that was chosen; `models` is where built forms are, None if nowhere.

    `auto` is ONNX Runtime where there is no GPU and a built form gives what the weights give, else torch. Raises
    `LoadFailure` before anything is loaded where a digest is not the expected one, ModelUnavailable.
    """
    wants_onnx = backend == "onnx" or (backend == "auto" and models is not None and not has_gpu(device))
    if wants_onnx:
        try:
            return _onnx(folder, models, sha256, files_sha256, max_tokens)
        except ModelUnavailable as error:
            if backend == "onnx":
                raise
            logger.warning("embedding with torch, several times slower: %s", error.detail)

    from memory.embedding.model import EmbeddingModel

    return EmbeddingModel(folder, sha256, files_sha256, max_tokens, device, dtype)


def _onnx(folder: Path, models: Path | None, sha256: str | None, files_sha256: str | None, max_tokens: int) -> Model:
    weights = expected_weights(folder, sha256, files_sha256)
    built = form_folder(models, weights) if models is not None else None
    manifest = read_manifest(built, weights, files_digest(folder)) if built is not None else None
    if built is None or manifest is None:
        raise ModelUnavailable(f"The embedding model has no built form here; `{COMMAND}` makes it.")
    try:
        from memory.embedding.onnx_model import OnnxEmbeddingModel

        return OnnxEmbeddingModel(built, manifest, max_tokens)
    except ImportError:
        raise ModelUnavailable("ONNX Runtime is not installed.") from None
