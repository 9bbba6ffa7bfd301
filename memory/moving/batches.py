"""How much is copied by one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# One transaction writes so many chunks at most, unless a document has more by itself: its user's other writers wait for
# it, some 50 ms.
BATCH_CHUNKS = 64


def batches(documents: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Doc ids of up to BATCH_CHUNKS chunks together, at least one. `documents`: (doc_id, its chunks)."""
    batch: list[str] = []
    chunks = 0
    for doc_id, count in documents:
        if batch and chunks + count > BATCH_CHUNKS:
            yield batch
            batch, chunks = [], 0
        batch.append(doc_id)
        chunks += count
    if batch:
        yield batch
