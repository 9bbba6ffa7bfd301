"""Which way the configured cross-encoder is run: ONNX Runtime on a CPU, torch on a GPU and where there is no form."""

from __future__ import annotations

import logging

from reranker.backends import Backend
from reranker.backends.onnx_form import Place, place_of
from reranker.config import RerankConfig
from reranker.faults import LoadFailure
from reranker.loader import has_gpu, load_cross_encoder

logger = logging.getLogger(__name__)


def load_backend(config: RerankConfig) -> Backend:
    """The configured model, loaded.

    `runtime` `auto` is ONNX Runtime where there are built forms and no GPU, unless a `dtype` is asked for, which is
    torch's. Raises `LoadFailure`, and whatever the library raises that loads it.
    """
    may_be_onnx = config.models is not None and config.dtype == "auto" and not has_gpu(config.device)
    if config.runtime == "onnx" or (config.runtime == "auto" and may_be_onnx):
        place = None if config.models is None else place_of(config, config.models)
        try:
            return _onnx(place, config)
        except LoadFailure as failure:
            if config.runtime == "onnx":
                raise
            logger.warning("reranking with torch, more slowly: %s", failure.detail)

    from reranker.backends.cross_encoder import CrossEncoderBackend

    loaded = load_cross_encoder(config)
    return CrossEncoderBackend(loaded, config.max_tokens, config.batch_tokens, config.parallel_passes)


def _onnx(place: Place | None, config: RerankConfig) -> Backend:
    if place is None:
        raise LoadFailure("no_backend", "there is no folder of built forms")
    try:
        from reranker.backends.onnx_cross_encoder import OnnxCrossEncoderBackend

        return OnnxCrossEncoderBackend(place, config.max_tokens, config.batch_tokens, config.parallel_passes)
    except ImportError:
        raise LoadFailure("no_backend", "ONNX Runtime is not installed") from None
