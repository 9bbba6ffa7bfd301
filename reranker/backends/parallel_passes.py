"""A forward pass on a CPU as several side by side, each on cores of its own.

The threads of one pass wait for each other at every operator, some seventy times in two layers; passes beside each
other wait once. 24 pairs of 256 tokens took 44 ms as one pass of two threads and 33 ms as two of one, 8 of 64 tokens
9.9 and 6.7 (TinyBERT-shaped, bfloat16, 2 cores, medians).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import cache
from typing import Any

import numpy as np

from reranker.backends import Pair

Score = Callable[[Sequence[Pair]], np.ndarray]

# Fewer are not worth a pass of their own.
_LEAST_PAIRS = 4


@cache
def cpu_threads() -> int:
    """How many threads torch's operators use in this process, as it was before any pass set it."""
    import torch

    return torch.get_num_threads()


class ParallelPasses:
    """Shares pairs out over at most `cores` passes side by side, and the cores over those passes.

    `set_threads` says how many threads the operators of the calling thread's passes may use. torch's own also says it
    for every thread that is new to it, so it is set back to `cores` after each pass.
    """

    def __init__(self, cores: int, set_threads: Callable[[int], None], *, least_pairs: int = _LEAST_PAIRS):
        self._least_pairs = least_pairs
        self._cores = max(1, cores)
        self._set_threads = set_threads
        # Beside the thread that calls, which runs a pass too.
        self._workers = [_Worker(f"reranker-pass-{n}") for n in range(1, self._cores)]

    def score(self, score: Score, pairs: Sequence[Pair]) -> np.ndarray:
        """float32[n] as `score(pairs)` would give it, in the order of `pairs`; raises what any pass raises."""
        count = min(self._cores, len(pairs) // self._least_pairs)
        if count < 2:
            return score(pairs)
        parts = _parts([pair.tokens for pair in pairs], count)
        threads, over = divmod(self._cores, len(parts))
        own, *others = [
            (score, [pairs[i] for i in part], threads + (n < over)) for n, part in enumerate(parts)
        ]  # fmt: skip
        futures = [worker.run(self._run, *work) for worker, work in zip(self._workers, others, strict=False)]
        try:
            found = [self._run(*own)]
        finally:
            # Whatever went wrong: nothing runs any more when this returns.
            wait(futures)
            self._set_threads(self._cores)
        found += [future.result() for future in futures]
        scores = np.empty(len(pairs), dtype=np.float32)
        scores[np.concatenate(parts)] = np.concatenate(found)
        return scores

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _run(self, score: Score, pairs: Sequence[Pair], threads: int) -> np.ndarray:
        self._set_threads(threads)
        return score(pairs)


class _Worker:
    """A thread that does one thing after the other. A daemon: one that never comes back does not hold up the exit."""

    def __init__(self, name: str):
        self._work: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._own, name=name, daemon=True)
        self._thread.start()

    def run(self, do: Callable[..., Any], *arguments) -> Future:
        future: Future = Future()
        self._work.put((future, do, arguments))
        return future

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()

    def _own(self) -> None:
        while (work := self._work.get()) is not None:
            future, do, arguments = work
            try:
                future.set_result(do(*arguments))
            except BaseException as error:  # whatever it is, somebody waits
                future.set_exception(error)
            del work, future, do, arguments  # users' texts do not stay here until the next pass


def _parts(tokens: Sequence[int], count: int) -> list[list[int]]:
    """Positions, the longest pairs first, in at most `count` runs of about equally many tokens; none is empty."""
    by_length = sorted(range(len(tokens)), key=lambda i: -tokens[i])
    share = sum(tokens) / count
    parts: list[list[int]] = [[]]
    taken = 0.0
    for i in by_length:
        if parts[-1] and len(parts) < count and taken + tokens[i] / 2 > share * len(parts):
            parts.append([])
        parts[-1].append(i)
        taken += tokens[i]
    return parts
