"""The process's embedding models, from settings: each loaded once a worker, after the fork.

The first is what new users' texts are embedded with. While users are being moved to another space a process holds a
second, the next one, and serves each user from the space that is his.
"""

from __future__ import annotations

import os
import threading
from typing import cast

from django.conf import settings

from memory.embedding.backends import BackendChoice
from memory.embedding.embedder import Embedder
from memory.limits import CHUNK_MAX_TOKENS

_lock = threading.Lock()
_embedders: tuple[int, tuple[Embedder, ...]] | None = None


def get_embedder() -> Embedder:
    """The first embedder, loaded. The first call of a process loads it and checks its files' SHA-256.

    Raises ModelUnavailable; a load that failed is not tried again by every request.
    """
    embedder = configured_embedders()[0]
    embedder.load()
    return embedder


def configured_embedders() -> tuple[Embedder, ...]:
    """The embedders that settings name, the first one first; loaded or not."""
    global _embedders
    if _embedders is None or _embedders[0] != os.getpid():
        with _lock:
            if _embedders is None or _embedders[0] != os.getpid():
                prefixes = ["MEMORY_EMBEDDING"]
                if settings.MEMORY_NEXT_EMBEDDING_MODEL:
                    prefixes.append("MEMORY_NEXT_EMBEDDING")
                _embedders = (os.getpid(), tuple(map(_configured, prefixes)))
    return _embedders[1]


def loaded_embedder() -> Embedder | None:
    """The first embedder if this process has loaded it; never loads it."""
    if _embedders is None or _embedders[0] != os.getpid() or not _embedders[1][0].loaded:
        return None
    return _embedders[1][0]


def forget_embedders() -> None:
    """Make them anew at the next call. For tests, which change the settings of one process."""
    global _embedders
    _embedders = None


def _configured(prefix: str) -> Embedder:
    return Embedder(
        getattr(settings, f"{prefix}_MODEL"),
        revision=getattr(settings, f"{prefix}_REVISION") or None,
        expected_sha256=getattr(settings, f"{prefix}_SHA256") or None,
        expected_files_sha256=getattr(settings, f"{prefix}_FILES_SHA256") or None,
        # Of every space that this model serves, also of one with longer chunks than new ones get.
        max_tokens=CHUNK_MAX_TOKENS,
        backend=cast(BackendChoice, settings.MEMORY_EMBED_BACKEND),
        models=settings.MEMORY_MODELS_DIR,
    )
