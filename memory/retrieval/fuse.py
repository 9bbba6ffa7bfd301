"""From the legs' scores to one. Today there is one leg, so the fused score is the vector score."""

from __future__ import annotations

from memory.retrieval.candidate import Candidate


def fuse(candidates: list[Candidate]) -> None:
    """Set each candidate's `fused` score, 0-1."""
    for candidate in candidates:
        candidate.fused = candidate.vector
