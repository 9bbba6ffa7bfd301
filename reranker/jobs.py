"""Who waits for the model, and which of their pairs it reads next."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from reranker.backends import Pair
from reranker.results import Reason

# A batch is chosen from about this many forward passes' worth of pairs, so that lengths are alike.
_PASSES_LOOKED_AT = 4


class Job:
    """The pairs of one caller; `scores` fills up batch by batch. `deadline`: `time.monotonic()`."""

    def __init__(self, pairs: list[Pair], deadline: float):
        self.pairs = pairs
        self.deadline = deadline
        # Longest last, so that the last one is the longest.
        self.waiting = sorted(range(len(pairs)), key=lambda i: (pairs[i].tokens, -i))
        self.unfinished = len(pairs)
        self.scores = np.empty(len(pairs), dtype=np.float32)
        self.reason: Reason | None = None
        self.done = threading.Event()

    @property
    def waiting_tokens(self) -> int:
        return sum(self.pairs[i].tokens for i in self.waiting)

    def fill(self, i: int, score: float) -> None:
        self.scores[i] = score
        self.unfinished -= 1
        if not self.unfinished:
            self.done.set()

    def skip(self, reason: Reason) -> None:
        self.reason = reason
        self.waiting.clear()
        self.done.set()


def next_batch(jobs: Sequence[Job], batch_pairs: int, batch_tokens: int) -> list[tuple[Job, int]]:
    """The next forward pass as (job, index of pair), longest pair first, taken off their jobs.

    `jobs` stand in the order they came, each with pairs waiting. The pass starts with the oldest
    job's longest pair, so that it brings that job on, and goes on with the next longest ones of the
    first few jobs, while they fit: `batch_pairs` pairs, `batch_tokens` with padding. A pair of less
    than half the first one's length waits for its like, so less than half of a pass is padding.
    """
    oldest = jobs[0]
    longest = oldest.pairs[oldest.waiting[-1]].tokens
    found: list[tuple[int, Job, int]] = []
    for job in jobs:
        tokens_of = ((job.pairs[i].tokens, job, i) for i in job.waiting)
        found += [pair for pair in tokens_of if longest <= 2 * pair[0] <= 2 * longest]
        if len(found) >= _PASSES_LOOKED_AT * batch_pairs:
            break
    # A stable sort: of pairs of one length the oldest job's come first.
    found.sort(key=lambda pair: -pair[0])
    batch = [(job, i) for _, job, i in found[: max(1, min(batch_pairs, batch_tokens // longest))]]
    for job, i in batch:
        job.waiting.remove(i)
    return batch
