"""The texts of one caller on their way through the embedding model."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from memory.errors import MemoryServiceError

# What the model is asked for.
Task = Literal["query", "passage"]
# Each task has a priority class of its name.
PriorityClass = Task
# A batch is padded to its longest text, so less than half of it is padding, except where all of it is short.
_SHORT_BITS = 5


class Job:
    """`rows` fills up batch by batch; `tokens` counts each of `texts`, prepared for the model, and at least one for it.

    `is_short` is set by the queue: passages that are one small batch and go among the queries.
    """

    def __init__(
        self,
        task: Task,
        texts: Sequence[Any],
        tokens: Sequence[int],
        deadline: float | None = None,
        user: str = "",
    ):
        self.task: Task = task
        self.user = user
        self.texts = texts
        self.tokens = [max(1, count) for count in tokens]
        self.deadline = math.inf if deadline is None else deadline
        self.is_short = False
        # Longest last, so that pop() takes texts of like length, the longest first.
        self.waiting = sorted(range(len(texts)), key=lambda i: (self.tokens[i], -i))
        self.unfinished_tokens = sum(self.tokens)
        self.rows: list[np.ndarray | None] = [None] * len(texts)
        self.error: MemoryServiceError | None = None
        self.done = threading.Event()
        self.admitted_at = time.monotonic()
        self.begun = threading.Event()  # its first text is with the model, or is about to be

    @property
    def priority(self) -> PriorityClass:
        """The priority class that it waits in."""
        return "query" if self.is_short else self.task

    @property
    def kind(self) -> tuple[Task, int]:
        """What its longest text that waits may share a batch with: the same task, the same class of length.

        All up to 32 tokens are of one class, those up to 64 of the next, and so on. Short passages are few: there a
        pass for each class would cost more than padding.
        """
        if self.is_short:
            return self.task, 0
        return self.task, max(_SHORT_BITS, (self.tokens[self.waiting[-1]] - 1).bit_length())

    def goes_with(self, kind: tuple[Task, int]) -> bool:
        """Whether its longest text that waits may share a batch with one of `kind`."""
        return self.kind == kind

    @property
    def padded_tokens(self) -> int:
        """All its texts as one batch, each as long as the longest."""
        return max(self.tokens) * len(self.tokens)

    def fill(self, index: int, row: np.ndarray) -> None:
        """Give text `index` its row; the last one makes the job done."""
        self.rows[index] = row
        self.unfinished_tokens -= self.tokens[index]
        if not self.unfinished_tokens:
            self.done.set()

    def fail(self, error: MemoryServiceError) -> None:
        self.error = error
        self.unfinished_tokens = 0
        self.waiting.clear()
        self.done.set()
