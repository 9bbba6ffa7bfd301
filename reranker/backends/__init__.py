"""What scores pairs of a query and a passage.

A backend is made, and scores, in one thread, its owner's; `prepare` is for any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and one passage, ready to be scored; `tokens` is what it costs, without padding to others' length."""

    tokens: int
    content: Any


class Backend(Protocol):
    """`name`, `runtime`, `device` and `dtype` are for answers and metrics; `max_tokens` bounds one pair."""

    name: str
    runtime: str
    device: str
    dtype: str
    weights_sha256: str | None
    max_tokens: int
    batch_tokens: int

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        """One pair per text. `deadline` is on the `time.monotonic()` clock.

        Raises `RerankSkipped("deadline")` when it passes, `TokenizerFault`.
        """

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """float32[n], higher is better, unbounded; raises whatever the model does."""

    def release_memory(self) -> None:
        """Give cached memory back to the device, after it ran out."""

    def close(self) -> None:
        """End its threads; nothing runs, and it is not asked again."""


def synthetic_pairs(backend: Backend, pairs: int, words: int) -> list[Pair]:
    """Pairs of like length that say nothing, to warm and probe a model with; no two are equal."""
    passage = " ".join(["what was said and when it was said"] * (words // 8 + 1))
    return backend.prepare("what was said", [f"{i} {passage}" for i in range(pairs)], float("inf"))
