"""This deployment's settings for the reranker: known before Django has its models, as the launcher needs them."""

from __future__ import annotations

from typing import cast

from django.conf import settings

import reranker
from memory import metrics
from reranker.config import BackendChoice, RuntimeChoice


def deployed_config() -> reranker.RerankConfig:
    """What `memory/apps.py` configures the reranker with; reads no flag, and so no database, yet."""
    return reranker.RerankConfig(
        backend=cast(BackendChoice, settings.RERANK_BACKEND),
        model=settings.CROSS_ENCODER_MODEL,
        revision=settings.CROSS_ENCODER_REVISION or None,
        expected_sha256=settings.CROSS_ENCODER_SHA256 or None,
        expected_files_sha256=settings.CROSS_ENCODER_FILES_SHA256 or None,
        runtime=cast(RuntimeChoice, settings.MEMORY_EMBED_BACKEND),
        models=settings.MEMORY_MODELS_DIR,
        meter=metrics.QueueMeter("rerank"),
        is_enabled=_is_enabled,
    )


def _is_enabled() -> bool:
    # A flag is a row: its model can be read only once Django is set up.
    from memory.rollout.flags import flag

    return flag("RERANK_ENABLED")
