"""What the events of POST /stream carry."""

from __future__ import annotations

from memory.api.fields import rfc3339
from memory.retrieval.citations import cite
from memory.services.query import MemoryAnswer
from memory.services.stream import Done


def citations(found: MemoryAnswer | None) -> dict:
    """`event: citations`: numbered from 1 as the answer's marks `[n]` are; empty without memory."""
    if found is None:
        return {"citations": [], "degraded": [], "took_ms": {}}
    return {
        "citations": [_citation(n, candidate) for n, candidate in enumerate(found.results, 1)],
        "degraded": found.degraded,
        "took_ms": found.took_ms,
    }


def delta(text: str) -> dict:
    """`event: token`."""
    return {"delta": text}


def done(done: Done, *, ttfv_ms: float | None, total_ms: float) -> dict:
    """`event: done`; times in milliseconds since the request was read, `ttfv` that of the first delta."""
    return {
        "finish_reason": done.finish_reason,
        "usage": done.usage,
        "degraded": done.degraded,
        "took_ms": {"ttfv": None if ttfv_ms is None else round(ttfv_ms, 3), "total": round(total_ms, 3)},
    }


def _citation(n: int, candidate) -> dict:
    citation = cite(candidate.doc_id, candidate.chunk_index, candidate.start, candidate.end, candidate.text)
    return {
        "n": n,
        "chunk_id": str(candidate.chunk_id),
        "doc_id": citation.doc_id,
        "chunk_index": citation.chunk_index,
        "start": citation.start,
        "end": citation.end,
        "quote": citation.quote,
        "score": candidate.score,
        "source": candidate.source,
        "thread_id": candidate.thread_id,
        "created_at": rfc3339(candidate.created_at),
    }
