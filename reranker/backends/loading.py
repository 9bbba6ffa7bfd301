"""What runs the configured cross-encoder: OpenVINO or ONNX Runtime on a CPU, torch on a GPU or without a form."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from reranker.backends import Backend
from reranker.backends.built_form import Place, place_of
from reranker.config import RerankConfig
from reranker.faults import LoadFailure, out_of_memory
from reranker.loader import has_fast_bfloat16, has_gpu, load_cross_encoder
from reranker.onnx_graph import cpu_threads

if TYPE_CHECKING:
    from reranker.backends.built_cross_encoder import BuiltRuntime

logger = logging.getLogger(__name__)

# With more threads ONNX Runtime runs passes side by side, and OpenVINO was not measured.
_OPENVINO_THREADS_MAX = 2


def load_backend(config: RerankConfig) -> Backend:
    """The configured model, loaded.

    `runtime` `auto` is a built form where there is one and no GPU, unless a `dtype` is asked for, which is torch's: by
    OpenVINO where the processor multiplies bfloat16 and this process has two threads at most, else by ONNX Runtime.
    Raises `LoadFailure`, and whatever the library raises that loads it.
    """
    runtimes = _in_turn(config)
    place = place_of(config, config.models) if runtimes and config.models is not None else None
    for runtime in runtimes:
        try:
            return _built(runtime, place, config)
        except LoadFailure as failure:
            if config.runtime == runtime:
                raise
            logger.warning("reranking not by %s, more slowly: %s", runtime, failure.detail, exc_info=failure.__cause__)

    from reranker.backends.cross_encoder import CrossEncoderBackend

    loaded = load_cross_encoder(config)
    return CrossEncoderBackend(loaded, config.max_tokens, config.batch_tokens, config.parallel_passes)


def _in_turn(config: RerankConfig) -> list[BuiltRuntime]:
    """What is tried before torch."""
    if config.runtime in ("openvino", "onnx"):
        return [config.runtime]
    if config.runtime == "torch" or config.models is None or config.dtype != "auto" or has_gpu(config.device):
        return []
    is_small = (config.parallel_passes or cpu_threads()) <= _OPENVINO_THREADS_MAX
    return ["openvino", "onnx"] if is_small and has_fast_bfloat16() else ["onnx"]


def _built(runtime: BuiltRuntime, place: Place | None, config: RerankConfig) -> Backend:
    if place is None:
        raise LoadFailure("no_backend", "there is no folder of built forms")
    try:
        from reranker.backends.built_cross_encoder import BuiltCrossEncoderBackend

        return BuiltCrossEncoderBackend(place, runtime, config.max_tokens, config.batch_tokens, config.parallel_passes)
    except ImportError as error:
        detail = f"the package that runs it by {runtime} is not installed, or cannot be loaded"
        raise LoadFailure("no_backend", detail) from error
    except LoadFailure:
        raise
    except Exception as error:  # Each package has errors of its own.
        detail = f"the model's built form cannot be run by {runtime} ({type(error).__name__})"
        raise LoadFailure("out_of_memory" if out_of_memory(error) else "no_backend", detail) from error
