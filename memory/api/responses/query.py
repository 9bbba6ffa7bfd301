"""What POST /memory/query answers."""

from __future__ import annotations

from memory.api.fields import rfc3339
from memory.retrieval.candidate import Candidate
from memory.retrieval.citations import cite
from memory.services.query import MemoryAnswer


def memory_answer(answer: MemoryAnswer) -> dict:
    """A query answer."""
    return {
        "results": [_result(candidate) for candidate in answer.results],
        "candidates": answer.candidates,
        "reranked": answer.reranked,
        "rerank": answer.rerank,
        "variant": answer.variant,
        "degraded": answer.degraded,
        "took_ms": answer.took_ms,
    }


def _result(candidate: Candidate) -> dict:
    citation = cite(candidate.doc_id, candidate.chunk_index, candidate.start, candidate.end, candidate.text)
    return {
        "chunk_id": str(candidate.chunk_id),
        "doc_id": candidate.doc_id,
        "chunk_index": candidate.chunk_index,
        "source": candidate.source,
        "thread_id": candidate.thread_id,
        "text": candidate.text,
        "metadata": candidate.metadata,
        "created_at": rfc3339(candidate.created_at),
        "score": candidate.score,
        "scores": {
            "vector": candidate.vector,
            "lexical": candidate.lexical,
            "fused": candidate.fused,
            "decay": candidate.decay,
            "rerank": candidate.rerank,
        },
        "citation": {
            "doc_id": citation.doc_id,
            "chunk_index": citation.chunk_index,
            "start": citation.start,
            "end": citation.end,
            "quote": citation.quote,
        },
    }
