"""The embedding model: loaded once per process, asked through one queue.

What runs it, OpenVINO, ONNX Runtime or torch, is imported by the load and not before it, so that a gunicorn master can
import this module and fork.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memory.embedding.backends import BackendChoice, Model, load_model, unit_rows
from memory.embedding.job import Job, Task
from memory.embedding.model import DEFAULT_MODEL, PACKAGED_FILES_SHA256, PACKAGED_NAMES, PACKAGED_SHA256, resolve_model
from memory.embedding.model_text import breakable
from memory.embedding.queue import EmbedderQueue
from memory.errors import MemoryServiceError, ModelUnavailable, Overloaded
from reranker.faults import LoadFailure
from reranker.model_files import is_at_hand, model_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_QUEUED_TOKENS = 262_144
RELOAD_AFTER_SECONDS = 30.0  # a load that failed is not tried again by each request


class Embedder:
    """A sentence-transformers model behind one owner thread; any thread may call it.

    `backend` says what runs it, and `models` where its built form is (memory/embedding/backends.py).

    `expected_sha256` (hex, `weights_digest`) and `expected_files_sha256` (hex, `files_digest`: tokenizer
    and configuration) are checked before anything is loaded; for all-MiniLM-L6-v2 both are known.
    `expected_dimension` is checked once it is loaded.
    `max_tokens` includes special tokens and raises the model's own limit up to its positions.
    `revision` and `cache_folder` are the hub's. `dtype` is a torch dtype's name, or `auto`: float16 on a GPU, else
    float32.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        cache_folder: str | None = None,
        expected_sha256: str | None = None,
        expected_files_sha256: str | None = None,
        expected_dimension: int | None = None,
        max_tokens: int = 512,
        device: str | None = None,
        dtype: str = "auto",
        backend: BackendChoice = "auto",
        models: Path | None = None,
        batch_tokens: int | None = None,
        max_queued_tokens: int = MAX_QUEUED_TOKENS,
    ):
        if model_name in PACKAGED_NAMES:
            expected_sha256 = expected_sha256 or PACKAGED_SHA256
            expected_files_sha256 = expected_files_sha256 or PACKAGED_FILES_SHA256
        self.model_name = model_name
        self._revision = revision
        self._cache_folder = cache_folder
        self._expected_sha256 = expected_sha256
        self._expected_files_sha256 = expected_files_sha256
        self._expected_dimension = expected_dimension
        self._max_tokens = max_tokens
        self._device = device
        self._dtype = dtype
        self._backend = backend
        self._models = models
        self._batch_tokens = batch_tokens
        self._max_queued_tokens = max_queued_tokens
        self._loading = threading.Lock()
        self._loading_pid: int | None = None
        self._loaded: Model | None = None
        self._queue: EmbedderQueue | None = None
        self._failure: tuple[float, MemoryServiceError] | None = None

    def load(self, deadline: float | None = None) -> Model:
        """Load the model if this process has not; a worker calls it after its fork.

        Raises `ModelUnavailable` (not found, wrong hash, unsafe format, loaded before a fork),
        `InvalidEmbedding` (its output cannot be stored), `Overloaded` when another thread still
        loads at `deadline`. A failure stands for 30 s.
        """
        if self._loading_pid not in (None, os.getpid()):
            # The model's threads and CUDA context did not come along; torch can hang on them.
            raise ModelUnavailable("The embedding model was loaded before the fork.")
        if self._loaded is not None:
            return self._loaded
        patience_seconds = -1 if deadline in (None, math.inf) else max(0.0, deadline - time.monotonic())
        if not self._loading.acquire(timeout=patience_seconds):
            raise Overloaded("The embedding model is still loading.", retry_after_seconds=5)
        try:
            return self._load() if self._loaded is None else self._loaded
        finally:
            self._loading.release()

    def folder(self) -> Path:
        """Where the model's files are; fetched from the hub if need be. Raises `LoadFailure`."""
        folder = resolve_model(self.model_name)
        if isinstance(folder, Path):
            return folder
        return model_folder(folder, revision=self._revision, cache_folder=self._cache_folder)

    def build(self, models: Path, *, force: bool = False) -> bool:
        """Make the built form under `models`; False where it is there. Raises as `memory.embedding.build.build`."""
        from memory.embedding.build import build

        shas = {"sha256": self._expected_sha256, "files_sha256": self._expected_files_sha256}
        return build(self.folder(), models, **shas, force=force)

    def is_built(self, models: Path) -> bool:
        """Whether the built form stands under `models`, by digest, without a network. Raises `LoadFailure`."""
        from memory.embedding.build import is_built

        name = resolve_model(self.model_name)
        if isinstance(name, str) and not is_at_hand(name, revision=self._revision, cache_folder=self._cache_folder):
            return False
        return is_built(self.folder(), models, self._expected_sha256, self._expected_files_sha256)

    def embed_query(self, text: str, deadline: float | None = None, user: str = "") -> np.ndarray:
        """float32[d] of unit length; what passes the model's tokens is left out.

        `deadline` is on the `time.monotonic()` clock. `user`, the tenant's hash, is whose turn it takes in the
        queue; what is nobody's takes turns as one user. Raises `Overloaded`, `ModelUnavailable`, `InvalidEmbedding`.
        """
        return self.ask_query(text, deadline, user)()

    def ask_query(self, text: str, deadline: float | None = None, user: str = "") -> Callable[[], np.ndarray]:
        """As `embed_query`, without the wait: what it gives is called once, and waits."""
        asked = self._ask("query", [text], deadline, user)
        return lambda: asked()[0]

    def embed_passages(self, texts: Sequence[str], deadline: float | None = None, user: str = "") -> np.ndarray:
        """float32[n, d] of unit length, in the order of `texts`; else as `embed_query`."""
        return self._ask("passage", texts, deadline, user)()

    def close(self) -> None:
        """Stop the thread and let go of the model; the next call loads it again."""
        if self._queue is not None and self._loading_pid == os.getpid():
            self._queue.close()
            if self._loaded is not None:
                self._loaded.close()
        self._queue = self._loaded = self._failure = self._loading_pid = None
        self._loading = threading.Lock()

    @property
    def dimension(self) -> int:
        return self.load().dimension

    @property
    def max_tokens(self) -> int:
        """Tokens of a passage, special ones included, that reach the model: the chunker's limit."""
        return self.load().passage_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """A copy for counting, without truncation and padding; not the model's own."""
        return self.load().tokenizer

    @property
    def weights_sha256(self) -> str:
        """The hash found at load; it names the embedding space."""
        return self.load().weights_sha256

    @property
    def device(self) -> str:
        return self.load().device

    @property
    def loaded(self) -> bool:
        """Whether this process can embed: the model is here, and the thread that asks it runs."""
        is_here = self._loaded is not None and self._loading_pid == os.getpid()
        return is_here and self._queue is not None and self._queue.is_alive

    @property
    def queued_tokens(self) -> int:
        return self._queue.queued_tokens if self._queue else 0

    @property
    def batches_run(self) -> int:
        return self._queue.batches_run if self._queue else 0

    def _load(self) -> Model:
        if self._failure and time.monotonic() < self._failure[0]:
            raise type(self._failure[1])(self._failure[1].detail)
        self._loading_pid = os.getpid()
        try:
            model = load_model(
                self.folder(),
                backend=self._backend,
                models=self._models,
                sha256=self._expected_sha256,
                files_sha256=self._expected_files_sha256,
                max_tokens=self._max_tokens,
                device=self._device,
                dtype=self._dtype,
            )
            unit_rows(model.encode("query", ["probe"]), self._expected_dimension or model.dimension)
        except Exception as error:
            if not isinstance(error, MemoryServiceError):
                why = f"cannot be used: {error.detail}" if isinstance(error, LoadFailure) else "could not be loaded"
                failure = ModelUnavailable(f"The embedding model {why}.")
                failure.__cause__ = error
                error = failure
            self._failure = time.monotonic() + RELOAD_AFTER_SECONDS, error
            raise error
        self._queue = EmbedderQueue(
            model.encode,
            batch_tokens=self._batch_tokens or model.batch_tokens,
            full_tokens=None if self._batch_tokens else model.full_tokens,
            max_queued_tokens=self._max_queued_tokens,
            is_one_thread=model.is_one_thread,
        )
        self._loaded = model
        return model

    def _ask(self, task: Task, texts: Sequence[str], deadline: float | None, user: str) -> Callable[[], np.ndarray]:
        model = self.load(deadline)
        prepared = [model.prepared(task, breakable(text)[0]) for text in texts]
        tokens = [model.cost_tokens(text) for text in prepared]
        if (queue := self._queue) is None:
            raise ModelUnavailable("The embedding model was closed meanwhile.")
        if not texts:
            return lambda: np.empty((0, model.dimension), dtype=np.float32)
        job = Job(task, prepared, tokens, deadline, user)
        queue.ask(job)
        return lambda: unit_rows(queue.rows_of(job), model.dimension)
