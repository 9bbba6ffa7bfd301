"""How candidates are reranked: which backend, which model, in what portions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from reranker.queue_meter import UNMEASURED, QueueMeter

# What reranks, and what may be asked for: of either there is no other list.
BackendName = Literal["cross_encoder"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
BackendChoice = Literal["auto", BackendName, "none"]
BACKEND_CHOICES: tuple[BackendChoice, ...] = get_args(BackendChoice)
RuntimeChoice = Literal["auto", "openvino", "onnx", "torch"]
RUNTIME_CHOICES: tuple[RuntimeChoice, ...] = get_args(RuntimeChoice)

DEFAULT_MODEL = "cross-encoder/ms-marco-TinyBERT-L-2-v2"
# The hub's repository is now spelled `ms-marco-TinyBERT-L2-v2` and redirects from the old name.
DEFAULT_REVISION = "81d1926f67cb8eee2c2be17ca9f793c7c3bd20cc"
DEFAULT_TIMEOUT_MS = 250.0

# One forward pass is what a new caller may have to wait for. 2 CPU cores take about 7 µs a token
# in bf16, so a full batch is about 60 ms there; a GPU needs more to be busy.
CPU_BATCH_TOKENS = 8_192
GPU_BATCH_TOKENS = 65_536

_OFF = frozenset({"0", "false", "no", "off"})


def enabled_by_environment() -> bool:
    """Whether RERANK_ENABLED lets rerank; it does unless it says no."""
    return os.environ.get("RERANK_ENABLED", "true").strip().lower() not in _OFF


@dataclass(frozen=True)
class RerankConfig:
    """Settings of a `Reranker`. A model change reloads; the rest applies to the next call.

    backend: `auto` is the cross-encoder where its weights can be loaded, else candidate order.
    model, revision, cache_folder: a local folder, or a name in the local hub cache or the hub. The
        default model's revision is pinned; without a revision another model is the hub's newest.
    expected_sha256, expected_files_sha256: hex digests that the weights, and tokenizer and configuration
        together (`files_digest`), must have; None takes what is found.
    runtime, models: what runs the cross-encoder, and where built forms are (None: nowhere). `auto` is on a CPU, where
        there is a form and `dtype` is `auto`, OpenVINO where it multiplies bfloat16 and else ONNX Runtime; else torch.
    device: a torch device; None is `cuda:0` where there is one, else `cpu`.
    dtype: a torch dtype's name; `auto` is what the built form is in, and with torch bfloat16 where the hardware
        multiplies it (GPUs that say so, CPUs with avx512_bf16 or amx_bf16), else float32.
    max_tokens: longest query-passage pair, special tokens included; the model's own limit is kept.
    batch_pairs, batch_tokens: most pairs and most tokens, padding included, of one forward pass.
    parallel_passes: on a CPU, into how many passes side by side a large one is shared out at most, and how many threads
        OpenVINO has; None is one a core.
    max_queued_tokens: most tokens that wait, and a quarter of that of one owner.
    stuck_after_seconds: a forward pass that runs longer opens the breaker.
    reload_after_seconds: a failed load is tried again after this, then after twice as long, up to
        sixteen times.
    meter: told of the queue's depth, waits, batches, refusals and failures.
    is_enabled: asked by each `maybe_rerank` that is not told. Where it raises, the environment decides.
    """

    backend: BackendChoice = "auto"
    model: str = DEFAULT_MODEL
    revision: str | None = None
    cache_folder: str | None = None
    expected_sha256: str | None = None
    expected_files_sha256: str | None = None
    runtime: RuntimeChoice = "auto"
    models: Path | None = None
    device: str | None = None
    dtype: str = "auto"
    max_tokens: int = 512
    batch_pairs: int = 32
    batch_tokens: int | None = None
    parallel_passes: int | None = None
    max_queued_tokens: int = 131_072
    stuck_after_seconds: float = 5.0
    reload_after_seconds: float = 60.0
    meter: QueueMeter = UNMEASURED
    is_enabled: Callable[[], bool] = enabled_by_environment

    def __post_init__(self):
        if self.backend not in BACKEND_CHOICES:
            raise ValueError(f"backend must be one of {', '.join(BACKEND_CHOICES)}")
        if self.runtime not in RUNTIME_CHOICES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIME_CHOICES)}")
        if min(self.batch_pairs, self.max_queued_tokens) < 1 or self.max_tokens < 8:
            raise ValueError("batch_pairs and max_queued_tokens must be positive, max_tokens at least 8")

    @property
    def pinned_revision(self) -> str | None:
        """The revision to load: the one set, or the default model's."""
        return self.revision or (DEFAULT_REVISION if self.model == DEFAULT_MODEL else None)

    @property
    def cross_encoder_identity(self) -> tuple:
        """What a loaded cross-encoder depends on; when it changes, the model is loaded again."""
        return (
            *(self.model, self.pinned_revision, self.cache_folder, self.device, self.dtype, self.max_tokens),
            *(self.expected_sha256, self.expected_files_sha256, self.runtime, self.models),
            *(self.batch_pairs, self.batch_tokens, self.parallel_passes, self.max_queued_tokens),
            *(self.stuck_after_seconds, self.reload_after_seconds),
        )
