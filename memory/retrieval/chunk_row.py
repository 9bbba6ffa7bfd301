"""What every row of memory_chunks says of itself in clear, however it was found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory.sealing.columns import Origin, Place


@dataclass(slots=True)
class ChunkRow:
    """One chunk; who reads more of its row adds that. `start` and `end` are characters of its document's text."""

    chunk_id: UUID
    doc_id: str
    chunk_index: int
    source: str
    thread_id: str | None
    start: int
    end: int
    created_at: datetime
    sequence: int
    generation: int

    @property
    def place(self) -> Place:
        """What the text's seal is bound to."""
        return Place(self.chunk_id, self.doc_id, self.chunk_index, self.start, self.end, self.origin)

    @property
    def origin(self) -> Origin:
        """Where it came from, which its seals are bound to."""
        return Origin(self.source, self.thread_id, self.created_at, self.sequence)
