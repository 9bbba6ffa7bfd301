"""The pairs of one caller on their way through the model."""

from __future__ import annotations

import threading
import time

import numpy as np

from reranker.backends import Pair
from reranker.results import Reason


class Job:
    """Work of a `FairQueue`; `scores` fills up batch by batch. `deadline`: `time.monotonic()`.

    `user` is whose turn it takes; work of nobody's takes turns as one user, "".
    """

    is_short = False

    def __init__(self, pairs: list[Pair], deadline: float, user: str = ""):
        self.pairs = pairs
        self.deadline = deadline
        self.user = user
        self.tokens = [pair.tokens for pair in pairs]
        # Longest last, so that pop() takes pairs of like length, the longest first.
        self.waiting = sorted(range(len(pairs)), key=lambda i: (pairs[i].tokens, -i))
        self.unfinished = len(pairs)
        self.scores = np.empty(len(pairs), dtype=np.float32)
        self.reason: Reason | None = None
        self.done = threading.Event()
        self.admitted_at = time.monotonic()
        self.has_begun = False

    @property
    def waiting_tokens(self) -> int:
        return sum(self.tokens[i] for i in self.waiting)

    @property
    def unfinished_tokens(self) -> int:
        """What the queue counts: a pair that is in a pass no longer waits."""
        return self.waiting_tokens

    @property
    def kind(self) -> int:
        """The tokens of its longest pair that waits."""
        return self.tokens[self.waiting[-1]]

    def goes_with(self, longest: int) -> bool:
        """Whether that pair may share a pass whose longest has so many: then less than half of it is padding."""
        return longest <= 2 * self.kind <= 2 * longest

    def fill(self, i: int, score: float) -> None:
        self.scores[i] = score
        self.unfinished -= 1
        if not self.unfinished:
            self.done.set()

    def skip(self, reason: Reason) -> None:
        self.reason = reason
        self.waiting.clear()
        self.done.set()
