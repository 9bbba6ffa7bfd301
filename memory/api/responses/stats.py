"""What GET /memory/stats answers."""

from __future__ import annotations

from typing import Any

from memory.api.fields import rfc3339
from memory.api.responses.body import About, Member, OrNull, itself
from memory.api.shapes import any_names, integer, moment, or_null
from memory.services.stats import SOURCES_MAX, MemoryStats, RateLeft

RATE = About(RateLeft).part(
    "One of the user's rates.",
    Member("limit", integer("How many tokens refill in `period_seconds`.", minimum=1)),
    Member("period_seconds", integer(minimum=1)),
    Member("remaining", integer("How many tokens there are now.")),
)
RATES = About(dict).part(
    "The user's token buckets; null for one that is not limited. Looking takes a token of `memory` only.",
    Member("query", OrNull(RATE)),
    Member("index", OrNull(RATE)),
    Member("chunks", OrNull(RATE, "A token a chunk that `index` is about to store.")),
    Member("memory", OrNull(RATE, "The rest of the memory endpoints.")),
    Member("default", OrNull(RATE, "Everything else.")),
)
QUOTA = About(MemoryStats).part(
    "What is stored of what the user may store; past it `index` answers 422 `quota_exceeded`.",
    Member("chunks", integer("Chunks that count."), lambda stats: stats.quota_chunks),
    Member("max_chunks", integer("How many may be stored.", minimum=1)),
)
STATS = About(MemoryStats).body(
    "MemoryStats",
    "The user's memory in numbers.",
    Member("documents", integer("All documents.")),
    Member("derived_documents", integer("Those made from others, such as summaries.")),
    Member("chunks", integer("Chunks of all documents.")),
    Member("chars", integer("Characters of all texts.")),
    Member("threads", integer("Conversations.")),
    Member(
        "sources",
        any_names(
            f"Documents by source, most first; at most {SOURCES_MAX} sources.",
            integer(minimum=1),
            maxProperties=SOURCES_MAX,
        ),
    ),
    Member(
        "oldest", or_null(moment("The first document's time.")), lambda stats: stats.oldest and rfc3339(stats.oldest)
    ),
    Member(
        "newest", or_null(moment("The last document's time.")), lambda stats: stats.newest and rfc3339(stats.newest)
    ),
    Member("quarantined_chunks", integer("Chunks quarantined because they did not open.")),
    Member("quota", QUOTA, itself),
    Member("rates", RATES),
)


def memory_stats(stats: MemoryStats) -> dict[str, Any]:
    """A memory in numbers."""
    return STATS.render(stats)
