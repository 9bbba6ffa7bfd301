"""The queue before the embedding model: one owner thread, three lanes, bounded work.

Queries go before token vectors, and both before passages. A running batch cannot be stopped, so the
batches are small, and a query waits for the one that runs, not for the document it is part of. There is no waiting
timer: a batch is whatever waits when the model becomes free.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from memory.errors import MemoryServiceError, ModelUnavailable, Overloaded

logger = logging.getLogger(__name__)

Lane = Literal["query", "tokens", "passage"]
# Somebody waits for an answer behind the first two; "tokens" are the token vectors of passages to rerank.
_LANES_IN_ORDER: tuple[Lane, ...] = ("query", "tokens", "passage")
# Under a constant stream of queries, passages still get one batch in nine.
QUERY_BATCHES_BEFORE_PASSAGES = 8
_MAX_RETRY_AFTER_SECONDS = 30
_THREAD_CHECK_SECONDS = 1.0
# A batch is padded to its longest text, so less than half of it is padding, except where all of it is short.
_SHORT_BITS = 5


class _Job:
    """The texts of one caller; `rows` fills up batch by batch."""

    def __init__(self, lane: Lane, texts: Sequence[str], tokens: Sequence[int], deadline):
        self.lane = lane
        self.texts = texts
        self.tokens = tokens
        self.deadline = math.inf if deadline is None else deadline
        # Longest last, so that pop() takes texts of like length, the longest first.
        self.waiting = sorted(range(len(texts)), key=lambda i: (tokens[i], -i))
        self.unfinished = len(texts)
        self.rows: list[np.ndarray | None] = [None] * len(texts)
        self.error: MemoryServiceError | None = None
        self.done = threading.Event()

    @property
    def length_class(self) -> int:
        """Of its longest text that waits: all up to 32 tokens are of one class, those up to 64 of the next, ...

        To be reranked come short windows and their question: a pass of its own for that would cost more than padding.
        """
        if self.lane == "tokens":
            return 0
        return max(_SHORT_BITS, (self.tokens[self.waiting[-1]] - 1).bit_length())

    def fail(self, error: MemoryServiceError) -> None:
        self.error = error
        self.waiting.clear()
        self.done.set()


class EmbedderQueue:
    """Runs `encode(lane, texts) -> rows` in one thread, for any number of callers.

    A batch is at most `batch_tokens` long, counted with padding, or a single text; its texts are of like length,
    so that short questions are quick beside long ones. At most `max_queued_tokens` of passages wait, and an
    eighth of that of each other lane besides, so that a full indexing queue does not refuse a query; a single
    job is taken on an empty lane whatever its size. Passage jobs take turns, batch by batch.
    """

    def __init__(
        self,
        encode: Callable[[Lane, list[str]], np.ndarray],
        *,
        batch_tokens: int,
        max_queued_tokens: int,
    ):
        self._encode = encode
        self._batch_tokens = batch_tokens
        self._max_queued_tokens = {
            "query": max_queued_tokens // 8,
            "tokens": max_queued_tokens // 8,
            "passage": max_queued_tokens,
        }
        self._jobs: dict[Lane, deque[_Job]] = {lane: deque() for lane in _LANES_IN_ORDER}
        self._queued_tokens: dict[Lane, int] = dict.fromkeys(_LANES_IN_ORDER, 0)
        self._query_batches_in_a_row = 0
        self._seconds_per_token = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self.batches_run = 0
        self._thread = threading.Thread(target=self._own, name="embedder", daemon=True)
        self._thread.start()

    @property
    def queued_tokens(self) -> int:
        """Tokens admitted and not yet done, the running batch included."""
        return sum(self._queued_tokens.values())

    def embed(
        self,
        lane: Lane,
        texts: Sequence[str],
        tokens: Sequence[int],
        deadline: float | None = None,
    ) -> list[np.ndarray]:
        """One row per text, in order; blocks. `deadline` is on the `time.monotonic()` clock.

        Raises `Overloaded` when the lane is full or the deadline passes first, and
        `ModelUnavailable` when the model fails on a batch with one of these texts.
        """
        job = _Job(lane, texts, tokens, deadline)
        self._admit(job)
        while not job.done.wait(self._patience_seconds(job)):
            if time.monotonic() >= job.deadline:
                with self._changed:
                    self._drop(job, self._overloaded())
            elif not self._thread.is_alive():
                raise ModelUnavailable
        if job.error is not None:
            raise job.error
        return job.rows

    def close(self) -> None:
        """Stop after the running batch; whoever still waits gets `ModelUnavailable`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _admit(self, job: _Job) -> None:
        total = sum(job.tokens)
        with self._changed:
            if self._closed:
                raise ModelUnavailable
            queued = self._queued_tokens[job.lane]
            too_much = queued and queued + total > self._max_queued_tokens[job.lane]
            if too_much or time.monotonic() >= job.deadline:
                raise self._overloaded()
            self._queued_tokens[job.lane] += total
            self._jobs[job.lane].append(job)
            self._changed.notify_all()

    def _patience_seconds(self, job: _Job) -> float:
        return max(0.0, min(job.deadline - time.monotonic(), _THREAD_CHECK_SECONDS))

    def _overloaded(self) -> Overloaded:
        wait_seconds = math.ceil(self.queued_tokens * self._seconds_per_token)
        return Overloaded(retry_after_seconds=min(max(1, wait_seconds), _MAX_RETRY_AFTER_SECONDS))

    def _drop(self, job: _Job, error: MemoryServiceError) -> None:
        """Fail a job; what of it is in the running batch is counted off when that ends."""
        if not job.done.is_set():
            self._queued_tokens[job.lane] -= sum(job.tokens[i] for i in job.waiting)
            job.fail(error)

    def _own(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or any(self._jobs.values())):
                    self._changed.wait()
                if self._closed:
                    for job in [job for jobs in self._jobs.values() for job in jobs]:
                        self._drop(job, ModelUnavailable())
                    return
                lane, batch = self._take()
            if batch:
                self._run(lane, batch)
            del batch  # users' texts do not stay here until the next one

    def _take(self) -> tuple[Lane, list[tuple[_Job, int]]]:
        """The next batch as (job, index of text) pairs, of one lane; expired jobs fall out."""
        for jobs in self._jobs.values():
            for job in [job for job in jobs if time.monotonic() >= job.deadline]:
                self._drop(job, self._overloaded())
            live = [job for job in jobs if job.waiting]
            jobs.clear()
            jobs.extend(live)

        passages_due = self._query_batches_in_a_row >= QUERY_BATCHES_BEFORE_PASSAGES
        lane: Lane = next((lane for lane in _LANES_IN_ORDER if self._jobs[lane]), "passage")
        if passages_due and self._jobs["passage"]:
            lane = "passage"
        overtook = lane != "passage" and bool(self._jobs["passage"])
        self._query_batches_in_a_row = self._query_batches_in_a_row + 1 if overtook else 0

        return lane, self._batch_of(lane)

    def _batch_of(self, lane: Lane) -> list[tuple[_Job, int]]:
        jobs = self._jobs[lane]
        batch = list(self._fitting(jobs))
        left = [job for job in jobs if job.waiting]
        if lane == "passage":
            # Who had a turn goes to the back; a query keeps its place.
            had_turn = {id(job) for job, _ in batch}
            left.sort(key=lambda job: id(job) in had_turn)
        jobs.clear()
        jobs.extend(left)
        return batch

    def _fitting(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, int]]:
        """The oldest job's longest text, and in order of the jobs what is of its length class, while it fits."""
        taken = longest = 0
        wanted = jobs[0].length_class if jobs else None
        for job in jobs:
            while job.waiting and job.length_class == wanted:
                longest = max(longest, job.tokens[job.waiting[-1]])
                if taken and longest * (taken + 1) > self._batch_tokens:
                    return
                taken += 1
                yield job, job.waiting.pop()

    def _run(self, lane: Lane, batch: list[tuple[_Job, int]]) -> None:
        started = time.monotonic()
        rows, failure = None, None
        try:
            rows = self._encode(lane, [job.texts[i] for job, i in batch])
            if len(rows) != len(batch):
                raise ValueError("the model returned another number of rows than texts")
        except Exception as error:
            failure = error
            # Without the traceback's text: a tokenizer's message can quote its input.
            logger.error("embedding batch failed: %s", type(error).__name__)

        batch_tokens = sum(job.tokens[i] for job, i in batch)
        with self._changed:
            self.batches_run += 1
            self._queued_tokens[lane] -= batch_tokens
            if failure is None:
                pace = (time.monotonic() - started) / max(batch_tokens, 1)
                self._seconds_per_token += 0.2 * (pace - self._seconds_per_token)
            for n, (job, i) in enumerate(batch):
                if failure is not None:
                    self._drop(job, _as_service_error(failure))
                    continue
                job.rows[i] = rows[n]
                job.unfinished -= 1
                if not job.unfinished and not job.done.is_set():
                    job.done.set()


def _as_service_error(failure: Exception) -> MemoryServiceError:
    """A new error for each caller: one object raised in two threads mixes their tracebacks."""
    if isinstance(failure, MemoryServiceError):
        return type(failure)(failure.detail)
    error = ModelUnavailable("The embedding model failed.")
    error.__cause__ = failure
    return error
