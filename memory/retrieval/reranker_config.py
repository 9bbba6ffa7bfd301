"""This deployment's settings for the reranker; reads no flag, and so no database, before it is asked to rerank."""

from __future__ import annotations

from typing import cast

from django.conf import settings

from memory import metrics
from reranker.config import BackendChoice, RerankConfig, RuntimeChoice


def deployed_config() -> RerankConfig:
    """As settings name model, digests, backend and built forms. Needs no Django app to be loaded."""
    return RerankConfig(
        backend=cast(BackendChoice, settings.RERANK_BACKEND),
        model=settings.CROSS_ENCODER_MODEL,
        revision=settings.CROSS_ENCODER_REVISION or None,
        expected_sha256=settings.CROSS_ENCODER_SHA256 or None,
        expected_files_sha256=settings.CROSS_ENCODER_FILES_SHA256 or None,
        runtime=_runtime(settings.MEMORY_EMBED_BACKEND),
        models=settings.MEMORY_MODELS_DIR,
        meter=metrics.QueueMeter("rerank"),
        is_enabled=_is_enabled,
    )


def _runtime(embed_backend: str) -> RuntimeChoice:
    """Where OpenVINO is asked to embed, reranking is by what is there: it is no reason to go without."""
    return "auto" if embed_backend == "openvino" else cast(RuntimeChoice, embed_backend)


def _is_enabled() -> bool:
    from memory.rollout.flags import flag

    return flag("RERANK_ENABLED")
