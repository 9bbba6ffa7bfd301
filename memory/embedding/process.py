"""The process's embedding model, from settings: loaded once a worker, after the fork."""

from __future__ import annotations

import os
import threading

from django.conf import settings

from memory.embedding.embedder import Embedder
from memory.models.chunk import EMBEDDING_DIMENSION

_lock = threading.Lock()
_embedder: tuple[int, Embedder] | None = None


def get_embedder() -> Embedder:
    """The loaded embedder. The first call of a process loads it and checks its files' SHA-256.

    Raises ModelUnavailable; a load that failed is not tried again by every request.
    """
    global _embedder
    if _embedder is None or _embedder[0] != os.getpid():
        with _lock:
            if _embedder is None or _embedder[0] != os.getpid():
                _embedder = (
                    os.getpid(),
                    Embedder(
                        settings.MEMORY_EMBEDDING_MODEL,
                        revision=settings.MEMORY_EMBEDDING_REVISION or None,
                        expected_sha256=settings.MEMORY_EMBEDDING_SHA256 or None,
                        expected_files_sha256=settings.MEMORY_EMBEDDING_FILES_SHA256 or None,
                        expected_dimension=EMBEDDING_DIMENSION,
                        max_tokens=settings.MEMORY_CHUNK_TOKENS,
                    ),
                )
    embedder = _embedder[1]
    embedder.load()
    return embedder


def loaded_embedder() -> Embedder | None:
    """The embedder if this process has loaded it; never loads it."""
    return _embedder[1] if _embedder and _embedder[0] == os.getpid() and _embedder[1].loaded else None
