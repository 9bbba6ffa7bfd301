"""A forward pass on a CPU as several side by side, each on cores of its own.

The threads of one pass wait for each other at every operator, some seventy times in two layers; passes beside each
other wait once. 24 pairs of 256 tokens took 32 ms as one pass of two threads and 26 ms as two of one, 8 of 64 tokens
7.3 and 4.9 (TinyBERT-shaped, bfloat16, 2 cores, medians).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from reranker.backends import Pair

# Fewer are not worth a pass of their own.
_LEAST_PAIRS = 4


class Lanes:
    """Shares pairs out over at most `cores` lanes; the cores over the lanes there are.

    `set_threads` says how many threads the operators of the calling thread's passes may use.
    """

    def __init__(self, cores: int, set_threads: Callable[[int], None]):
        self._cores = max(1, cores)
        self._set_threads = set_threads
        # One lane runs in the thread that calls.
        self._others = ThreadPoolExecutor(max(1, self._cores - 1), thread_name_prefix="reranker-lane")

    def score(self, score: Callable[[Sequence[Pair]], np.ndarray], pairs: Sequence[Pair]) -> np.ndarray:
        """float32[n] as `score(pairs)` would give it, in the order of `pairs`; raises what any lane raises."""
        count = min(self._cores, len(pairs) // _LEAST_PAIRS)
        if count < 2:
            return self._run(score, pairs, self._cores)
        parts = _parts([pair.tokens for pair in pairs], count)
        threads = max(1, self._cores // len(parts))
        own, *others = [[pairs[i] for i in part] for part in parts]
        futures = [self._others.submit(self._run, score, part, threads) for part in others]
        try:
            found = [self._run(score, own, threads)]
        finally:
            # Whatever went wrong: nothing runs any more when this returns.
            wait(futures)
        found += [future.result() for future in futures]
        scores = np.empty(len(pairs), dtype=np.float32)
        scores[np.concatenate(parts)] = np.concatenate(found)
        return scores

    def close(self) -> None:
        self._others.shutdown()

    def _run(self, score: Callable[[Sequence[Pair]], np.ndarray], pairs: Sequence[Pair], threads: int) -> np.ndarray:
        self._set_threads(threads)
        return score(pairs)


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
