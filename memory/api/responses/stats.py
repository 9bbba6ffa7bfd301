"""What GET /memory/stats answers."""

from __future__ import annotations

from dataclasses import asdict

from memory.api.fields import rfc3339
from memory.services.stats import MemoryStats


def memory_stats(stats: MemoryStats) -> dict:
    """A memory in numbers."""
    return {
        "documents": stats.documents,
        "derived_documents": stats.derived_documents,
        "chunks": stats.chunks,
        "chars": stats.chars,
        "threads": stats.threads,
        "sources": stats.sources,
        "oldest": stats.oldest and rfc3339(stats.oldest),
        "newest": stats.newest and rfc3339(stats.newest),
        "quarantined_chunks": stats.quarantined_chunks,
        "quota": {"chunks": stats.quota_chunks, "max_chunks": stats.max_chunks},
        "rates": {bucket: left and asdict(left) for bucket, left in stats.rates.items()},
    }
