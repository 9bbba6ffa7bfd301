"""What a move has done so far, and its limits."""

from __future__ import annotations

from dataclasses import dataclass

# So few documents are copied by the transaction that switches: somebody may write all the time.
LAST_DOCUMENTS = 8
ROUNDS_MAX = 100


@dataclass
class Moved:
    """What was done for one user or several: documents and chunks copied, some more than once; rows removed behind."""

    documents: int = 0
    chunks: int = 0
    rounds: int = 0
    removed_rows: int = 0
    finished: bool = False
