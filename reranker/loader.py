"""Finding and loading the cross-encoder, and remembering how that went.

torch, transformers and sentence-transformers are imported by the load and not before it, so that a
gunicorn master can import this package and fork.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reranker.config import RerankConfig
from reranker.faults import reason_of
from reranker.model_files import HUB_FILES, HUB_FILES_LEFT, files_digest, weights_digests
from reranker.results import Reason

logger = logging.getLogger(__name__)

LoadState = Literal["cold", "loading", "ready", "failed"]
MOST_RELOAD_BACKOFF = 16
_BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


class LoadFailure(Exception):
    """The model cannot be used; `reason` is what its calls are refused with."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


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
    `reload_after_seconds`, then after twice as long each time, up to sixteen times as long. A failure is logged
    unless it is the same as the one before.
    """

    def __init__(self, make: Callable[[], Any], reload_after_seconds: float):
        self._make = make
        self._reload_after_seconds = reload_after_seconds
        self._failures_in_a_row = 0
        self._retry_at = 0.0
        self._logged: tuple[Reason, str] | None = None
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
        except Exception as error:
            self._failures_in_a_row += 1
            backoff = min(2 ** (self._failures_in_a_row - 1), MOST_RELOAD_BACKOFF)
            self._retry_at = time.monotonic() + backoff * self._reload_after_seconds
            self.reason = error.reason if isinstance(error, LoadFailure) else reason_of(error)
            self.detail = error.detail if isinstance(error, LoadFailure) else type(error).__name__
            self.state = "failed"
            if self._logged != (self.reason, self.detail):
                self._logged = (self.reason, self.detail)
                logger.warning("the reranker's model could not be loaded (%s): %s", self.reason, self.detail)
        else:
            self._failures_in_a_row = 0
            self._logged = None
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


def load_cross_encoder(config: RerankConfig) -> LoadedModel:
    """Load the configured model; raises `LoadFailure`, and whatever torch raises."""
    try:
        folder = model_folder(config)
    except LoadFailure:
        raise
    except Exception as error:  # the hub's errors are of many families, its network's among them
        raise LoadFailure("no_backend", f"the model cannot be fetched ({type(error).__name__})") from error
    digest = weights_digest(folder)
    _require("weights", digest, config.expected_sha256)
    if config.expected_files_sha256:
        _require("tokenizer and configuration", files_digest(folder), config.expected_files_sha256)

    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = config.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
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
        model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)},
    ).eval()
    if model.num_labels != 1:
        raise LoadFailure("no_backend", f"the model has {model.num_labels} outputs and cannot rank")
    return LoadedModel(model, device, dtype, digest)


def model_folder(config: RerankConfig) -> Path:
    """The model's folder: itself, the hub cache's, or fetched from the hub unless HF_HUB_OFFLINE."""
    if os.path.isdir(config.model):
        return Path(config.model)
    if os.path.isabs(config.model) or config.model.startswith("."):
        raise LoadFailure("no_backend", "the model's folder does not exist")

    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {
        "revision": config.pinned_revision,
        "cache_dir": config.cache_folder,
        "allow_patterns": HUB_FILES,
        "ignore_patterns": HUB_FILES_LEFT,
    }
    try:
        folder = Path(snapshot_download(config.model, local_files_only=True, **wanted))
        if any(folder.glob("*.safetensors")):  # else a download that was cut off
            return folder
    except LocalEntryNotFoundError:
        pass
    if constants.HF_HUB_OFFLINE:
        raise LoadFailure("no_backend", "the model is not in the hub cache, and HF_HUB_OFFLINE is set")
    return Path(snapshot_download(config.model, **wanted))


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) of `model.safetensors`, or of the digests, in the order of paths, where there are several files."""
    digests = list(weights_digests(folder).values())
    if not digests:
        raise LoadFailure("no_backend", "the model has no safetensors weights")
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _require(what: str, found: str, expected: str | None) -> None:
    if expected and found != expected.lower():
        raise LoadFailure("no_backend", f"the model's {what} are not the expected ones: found SHA-256 {found}")


def best_dtype(device: str) -> str:
    """`bfloat16` where the hardware multiplies it, else `float32`.

    Emulated bf16 is slower than fp32, so a processor that does not say it can is taken at its word.
    """
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device != "cpu":
        return "float32"
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return "bfloat16" if _BF16_CPU_FLAGS & set(flags.split()) else "float32"
