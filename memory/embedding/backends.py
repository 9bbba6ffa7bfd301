"""What runs the embedding model: OpenVINO or ONNX Runtime on a CPU, torch on a GPU and where there is no built form."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from memory.embedding.built_form import COMMAND, OPENVINO, form_folder, read_manifest
from memory.embedding.job import Task
from memory.errors import InvalidEmbedding, MemoryServiceError, ModelUnavailable
from reranker.loader import has_fast_bfloat16, has_gpu
from reranker.model_files import expected_weights, files_digest
from reranker.onnx_graph import cpu_threads

if TYPE_CHECKING:
    from memory.embedding.built_model import Reader

logger = logging.getLogger(__name__)

BackendChoice = Literal["auto", "openvino", "onnx", "torch"]
BACKEND_CHOICES: tuple[BackendChoice, ...] = get_args(BackendChoice)
_MIN_NORM = 1e-6


class Model(Protocol):
    """A loaded model, as `memory.embedding.model.EmbeddingModel` describes it."""

    weights_sha256: str
    runtime: str  # `openvino`, `onnx` or `torch`
    device: str
    # So much is asked of it at once: it is what a query may have to wait for. From `full_tokens` on a batch tells what
    # a token takes.
    batch_tokens: int
    full_tokens: int
    dimension: int
    passage_tokens: int
    tokenizer: Any
    # Whether `encode` computes only in the calling thread.
    is_one_thread: bool

    def prepared(self, task: Task, text: str) -> Any: ...

    def cost_tokens(self, text: Any) -> int: ...

    def encode(self, task: Task, texts: list[Any]) -> np.ndarray | list[np.ndarray]: ...

    def close(self) -> None: ...


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

    `auto` is a built form where there is no GPU and one gives what the weights give, else torch: by OpenVINO where the
    processor multiplies bfloat16, else by ONNX Runtime. Raises `LoadFailure` before anything is loaded where a digest
    is not the expected one, ModelUnavailable.
    """
    for runtime in _in_turn(backend, models is not None and not has_gpu(device)):
        try:
            return _built(runtime, folder, models, sha256, files_sha256, max_tokens)
        except ModelUnavailable as error:
            if backend != "auto":
                raise
            why = error.__cause__
            logger.warning("embedding not by %s, more slowly: %s", runtime, error.detail, exc_info=why)

    from memory.embedding.model import EmbeddingModel

    return EmbeddingModel(folder, sha256, files_sha256, max_tokens, device, dtype)


def _in_turn(backend: BackendChoice, may_be_built: bool) -> list[BackendChoice]:
    """What is tried before torch."""
    if backend == "auto":
        if not may_be_built:
            return []
        return ["openvino", "onnx"] if has_fast_bfloat16() else ["onnx"]
    return [] if backend == "torch" else [backend]


def _built(
    runtime: BackendChoice,
    folder: Path,
    models: Path | None,
    sha256: str | None,
    files_sha256: str | None,
    max_tokens: int,
) -> Model:
    weights = expected_weights(folder, sha256, files_sha256)
    built = form_folder(models, weights) if models is not None else None
    manifest = read_manifest(built, weights, files_digest(folder)) if built is not None else None
    has_graph = manifest is not None and (runtime != "openvino" or OPENVINO in manifest.digests)
    if built is None or manifest is None or not has_graph:
        failed = manifest.openvino if manifest is not None else ""
        how = f"`{COMMAND} --force` tries again, where OpenVINO {failed} failed" if failed else f"`{COMMAND}` makes it"
        raise ModelUnavailable(f"The embedding model has no built form for {runtime} here; {how}.")
    from memory.embedding.built_model import BuiltEmbeddingModel

    try:
        return BuiltEmbeddingModel(built, manifest, max_tokens, _reader(runtime, built, manifest.positions))
    except MemoryServiceError:
        raise
    except ImportError as error:
        detail = f"The package that runs the embedding model by {runtime} is not installed, or cannot be loaded."
        raise ModelUnavailable(detail) from error
    except Exception as error:  # Each package has errors of its own.
        raise ModelUnavailable(f"The embedding model's built form cannot be run by {runtime}.") from error


def _reader(runtime: BackendChoice, form: Path, positions: int) -> Reader:
    if runtime == "openvino":
        from memory.embedding.openvino_reader import OpenvinoReader

        return OpenvinoReader(form, positions)

    from memory.embedding.onnx_reader import OnnxReader

    return OnnxReader(form, cpu_threads())


def unit_rows(rows: np.ndarray | Sequence[np.ndarray], dimension: int) -> np.ndarray:
    """float32[n, d] of unit length; raises `InvalidEmbedding` where a row cannot be stored."""
    if any(np.shape(row) != (dimension,) for row in rows):
        raise InvalidEmbedding("The embedding model returned a vector of another dimension.")
    exact = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms >= _MIN_NORM).all()):
        raise InvalidEmbedding
    return (exact / norms).astype(np.float32)
