"""Loading the cross-encoder, and remembering how that went.

torch, transformers and sentence-transformers are imported by the load and not before it, so that a
gunicorn master can import this package and fork.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reranker.config import RerankConfig
from reranker.faults import LoadFailure, reason_of
from reranker.model_files import expected_weights, model_folder
from reranker.results import Reason

logger = logging.getLogger(__name__)

LoadState = Literal["cold", "loading", "ready", "failed"]
MOST_RELOAD_BACKOFF = 16


@dataclass(frozen=True)
class LoadedModel:
    """A `sentence_transformers.CrossEncoder` with one output, and where it came from."""

    model: Any
    device: str
    dtype: str
    weights_sha256: str


class Load:
    """Calls `make` in the thread that owns the result, and says how it stands to all others.

    A failure is a state with a reason, not an exception; it is tried again after
    `reload_after_seconds`, then after twice as long each time, up to sixteen times as long. Each kind of failure is
    logged once until a load succeeds: a machine without the network fails now in one way, now in another.
    """

    def __init__(self, make: Callable[[], Any], reload_after_seconds: float):
        self._make = make
        self._reload_after_seconds = reload_after_seconds
        self._failures_in_a_row = 0
        self._retry_at = 0.0
        self._logged: set[tuple[Reason, str]] = set()
        self._settled = threading.Event()
        self.state: LoadState = "cold"
        self.reason: Reason = "loading"
        self.detail = ""
        self.seconds: float | None = None
        self.loads = 0
        self.result: Any = None

    def run(self) -> None:
        self.state, self.reason, self.detail = "loading", "loading", ""
        started = time.monotonic()
        try:
            result = self._make()
        except BaseException as error:  # whatever it is, somebody waits for the end of this
            self._failures_in_a_row += 1
            backoff = min(2 ** (self._failures_in_a_row - 1), MOST_RELOAD_BACKOFF)
            self._retry_at = time.monotonic() + backoff * self._reload_after_seconds
            self.reason = error.reason if isinstance(error, LoadFailure) else reason_of(error)
            self.detail = error.detail if isinstance(error, LoadFailure) else type(error).__name__
            self.state = "failed"
            if (self.reason, self.detail) not in self._logged:
                self._logged.add((self.reason, self.detail))
                logger.warning("the reranker's model could not be loaded (%s): %s", self.reason, self.detail)
        else:
            self._failures_in_a_row = 0
            self._logged.clear()
            self.result = result
            self.seconds = time.monotonic() - started
            self.loads += 1
            self.state = "ready"
        self._settled.set()

    def seconds_until_due(self) -> float | None:
        """0 when it should run now, None when it need not."""
        if self.state == "cold":
            return 0.0
        return max(0.0, self._retry_at - time.monotonic()) if self.state == "failed" else None

    def wait(self, timeout_seconds: float | None) -> bool:
        """Wait for the first attempt to end; True if there is a model."""
        self._settled.wait(timeout_seconds)
        return self.state == "ready"


def load_cross_encoder(config: RerankConfig, *, attention: str | None = None) -> LoadedModel:
    """Load the configured model in torch; `attention` is an implementation that transformers knows.

    Raises `LoadFailure`, and whatever torch raises.
    """
    folder = model_folder(config.model, revision=config.pinned_revision, cache_folder=config.cache_folder)
    digest = expected_weights(folder, config.expected_sha256, config.expected_files_sha256)

    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = config.device or best_device()
    dtype = best_dtype(device) if config.dtype == "auto" else config.dtype
    try:
        AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise LoadFailure("tokenizer_error", f"the tokenizer cannot be loaded ({type(error).__name__})") from error
    model = CrossEncoder(
        str(folder),
        device=device,
        trust_remote_code=False,
        local_files_only=True,
        model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)}
        | ({"attn_implementation": attention} if attention else {}),
    ).eval()
    if model.num_labels != 1:
        raise LoadFailure("no_backend", f"the model has {model.num_labels} outputs and cannot rank")
    return LoadedModel(model, device, dtype, digest)


def cpu_cores() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_gpu(device: str | None) -> bool:
    """Whether torch would take one; torch is imported only where the machine has a device of that kind."""
    if device is not None:
        return device != "cpu"
    return any(Path("/dev").glob("nvidia[0-9]*")) and best_device() != "cpu"


def best_device() -> str:
    """`cuda:0` where there is one, else `cpu`."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def best_dtype(device: str) -> str:
    """`bfloat16` where the hardware multiplies it, else `float32`.

    Emulated bf16 is slower than fp32, so a processor that does not say it can is taken at its word.
    """
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device != "cpu":
        return "float32"
    return "bfloat16" if has_fast_bfloat16() else "float32"


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16, by AMX or by AVX-512."""
    return bool(cpu_flags() & {"amx_bf16", "avx512_bf16"})


def cpu_flags() -> set[str]:
    """What the processor says it can, in Linux's words; nothing where it cannot be told."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return set(next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split())
