"""What POST /memory/summarize answers."""

from __future__ import annotations

from dataclasses import asdict

from memory.services.summarize import Summary


def summary(made: Summary) -> dict:
    """A summary with its cited sentences."""
    return {
        "summary": made.text,
        "sentences": [{"text": sentence.text, "citation": asdict(sentence.citation)} for sentence in made.sentences],
        "covers": {"documents": made.covers_documents, "chunks": made.covers_chunks},
        "backend": made.backend,
        "doc_id": made.doc_id,
        "stored": made.doc_id is not None,
        "degraded": made.degraded,
        "took_ms": made.took_ms,
    }
