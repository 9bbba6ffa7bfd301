"""The queue before the embedding model: one owner thread, two priority classes, bounded work, turns by user.

Queries go before passages. A running batch cannot be stopped, so the batches are small, and a query waits for the one
that runs, not for the document it is part of. There is no waiting timer: a batch is whatever waits when the model
becomes free.

Longer than 250 lines on purpose: callers and the owner thread share one lock and the counts under it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from memory import metrics
from memory.embedding.cores import apart_from, go_anywhere
from memory.embedding.job import Job, Task
from memory.embedding.priority_classes import Batch, PriorityClasses
from memory.errors import MemoryServiceError, ModelUnavailable, Overloaded, UserOverloaded
from reranker.faults import out_of_memory

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER_SECONDS = 30
_THREAD_CHECK_SECONDS = 1.0
_BEGIN_MAX_SECONDS = 0.002
# After so many texts in a row that fail alone, the model is asked for one that is nobody's.
_FAILURES_BEFORE_PROBE = 2
_PROBE = "what was said"

_meter = metrics.QueueMeter("embedding")


class EmbedderQueue:
    """Runs `encode(task, texts) -> rows` in one thread, for any number of callers.

    A batch is at most `batch_tokens` long, counted with padding, or a single text; its texts are of like length,
    so that short questions are quick beside long ones. At most `max_queued_tokens` of passages wait, and less of
    queries (`PriorityClasses`).

    Within a class users take turns by tokens, and one user has at most a quarter of what may wait (`FairQueue`).

    With `is_one_thread` the model begins on another processor than the thread that asks. One that starts threads of its
    own would have them all there.
    """

    def __init__(
        self,
        encode: Callable[[Task, list[Any]], np.ndarray | list[np.ndarray]],
        *,
        batch_tokens: int,
        max_queued_tokens: int,
        full_tokens: int | None = None,
        is_one_thread: bool = False,
    ):
        self._encode = encode
        self._is_one_thread = is_one_thread
        self._batch_tokens = batch_tokens
        self._max_queued_tokens = max_queued_tokens
        self._classes = PriorityClasses(batch_tokens, max_queued_tokens)
        self._unfinished: set[Job] = set()
        self._seconds_per_token = 0.0
        # Of batches that are at least so long: a short one takes nearly as long whatever is in it, and where the
        # machine halts for a moment in one, each of its few tokens seems to take an age.
        self._full_tokens = batch_tokens // 2 if full_tokens is None else full_tokens
        self._seconds_per_full_token = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self.batches_run = 0
        self._thread = self._start_owner()

    @property
    def queued_tokens(self) -> int:
        """Tokens admitted and not yet done, the running batch included."""
        return self._classes.queued_tokens

    @property
    def is_alive(self) -> bool:
        """Whether the owner thread runs; should it die all the same, whoever waits or comes next replaces it."""
        return self._thread.is_alive()

    def embed(
        self,
        task: Task,
        texts: Sequence[Any],
        tokens: Sequence[int],
        deadline: float | None = None,
        user: str = "",
    ) -> list[np.ndarray]:
        """One row per text, in order; blocks. `deadline` is on the `time.monotonic()` clock.

        `user` is whose turn it takes; work of nobody's takes turns as one user. Raises `Overloaded` when the class
        or the user's share of it is full or the deadline passes first, and `ModelUnavailable` when the model fails
        on one of these texts.
        """
        if not texts:
            return []
        job = Job(task, texts, tokens, deadline, user)
        self.ask(job)
        return self.rows_of(job)

    def ask(self, job: Job) -> None:
        """As `embed` for a job of at least one text, without the wait: `rows_of` waits.

        Where the model is free it returns once the job has begun: else the owner would wait for the interpreter, which
        it needs for a moment and the caller goes on to use. A query takes 0.88 of the time (deploy/bench/profile.md).
        """
        if not self._is_one_thread or self._classes.queued_tokens:
            self._ask(job)
            return
        # The number of one that has ended may be another thread's by now.
        owner = self._thread
        with apart_from(owner.native_id if owner.is_alive() else None):
            self._ask(job)

    def rows_of(self, job: Job) -> list[np.ndarray]:
        """Wait for a job that was asked; as `embed`."""
        while not job.done.wait(self._patience_seconds(job)):
            with self._changed:
                self._replace_dead_owner()
                if time.monotonic() >= job.deadline:
                    self._drop(job, self._overloaded(job))
        if job.error is not None:
            raise job.error
        # Done, so none is missing.
        return cast("list[np.ndarray]", job.rows)

    def close(self) -> None:
        """Stop after the running batch; whoever still waits gets `ModelUnavailable`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()
        with self._changed:
            self._drop_all()

    # What callers do. From `_is_in_vain` on all but `_patience_seconds` are called with the lock held.

    def _ask(self, job: Job) -> None:
        if self._admit(job):
            job.begun.wait(_BEGIN_MAX_SECONDS)

    def _admit(self, job: Job) -> bool:
        """Whether nothing goes before it."""
        with self._changed:
            if self._closed:
                raise ModelUnavailable
            self._replace_dead_owner()
            queue = self._classes.classify(job)
            if queue.is_full(job.unfinished_tokens) or time.monotonic() >= job.deadline:
                raise self._refusal(job)
            tokens_until_done = queue.tokens_until_done(job.user, job.unfinished_tokens)
            # In vain, and instead of what others could have: not even in half the time it takes would it be done.
            if self._is_in_vain(job, tokens_until_done):
                # By his own work alone, were nobody else here?
                his = queue.tokens_of(job.user)
                is_own = bool(his) and self._is_in_vain(job, his + job.unfinished_tokens)
                raise self._refusal(job, UserOverloaded if is_own else Overloaded)
            if queue.is_over_share(job.user, job.unfinished_tokens):
                raise self._refusal(job, UserOverloaded)
            is_first = not self._classes.queued_tokens
            queue.add(job)
            self._unfinished.add(job)
            _meter.callers(+1)
            self._changed.notify_all()
            return is_first

    def _is_in_vain(self, job: Job, tokens_until_done: int) -> bool:
        return time.monotonic() + tokens_until_done * self._seconds_per_full_token / 2 > job.deadline

    def _patience_seconds(self, job: Job) -> float:
        return max(0.0, min(job.deadline - time.monotonic(), _THREAD_CHECK_SECONDS))

    def _refusal(self, job: Job, kind: type[Overloaded] = Overloaded) -> Overloaded:
        _meter.refused()
        return self._overloaded(job, kind)

    def _overloaded(self, job: Job, kind: type[Overloaded] = Overloaded) -> Overloaded:
        """With the time that the work before it takes, by the measured seconds a token."""
        wait_seconds = math.ceil(self._classes.tokens_up_to(job) * self._seconds_per_token)
        return kind(retry_after_seconds=min(max(1, wait_seconds), _MAX_RETRY_AFTER_SECONDS))

    def _drop(self, job: Job, error: MemoryServiceError) -> None:
        """Fail a job; what of it is in the running batch is computed for nobody."""
        if not job.done.is_set():
            self._classes.of(job).release(job.user, job.unfinished_tokens)
            job.fail(error)
            self._forget(job)
            if isinstance(error, Overloaded):
                _meter.refused()

    def _forget(self, job: Job) -> None:
        if not job.begun.is_set():
            _meter.waited(time.monotonic() - job.admitted_at)
        if job in self._unfinished:
            self._unfinished.remove(job)
            _meter.callers(-1)

    def _drop_all(self) -> None:
        """Fail everybody who waits, and begin with nothing counted."""
        for job in list(self._unfinished):
            job.fail(ModelUnavailable())
        _meter.callers(-len(self._unfinished))
        self._unfinished.clear()
        self._classes = PriorityClasses(self._batch_tokens, self._max_queued_tokens)

    def _start_owner(self) -> threading.Thread:
        thread = threading.Thread(target=self._own, name="embedder", daemon=True)
        thread.start()
        return thread

    def _replace_dead_owner(self) -> None:
        if not (self._closed or self._thread.is_alive()):
            logger.error("the embedding queue's thread has died; another takes its place")
            self._drop_all()
            self._thread = self._start_owner()

    # What the owner does.

    def _own(self) -> None:
        while not self._closed:
            self._turn()

    def _turn(self) -> None:
        """Wait for a batch and run it: users' texts do not stay here until the next one.

        What the model raises, an exit that its library calls for included, fails its batch (`_run_part`); what else is
        raised is a fault of ours, which may have left the counts wrong: it fails all who wait. The thread goes on.
        """
        try:
            with self._changed:
                while not (self._closed or self._classes):
                    self._changed.wait()
                batch = [] if self._closed else self._take()
            if batch:
                self._run(batch)
        except BaseException as error:
            with self._changed:
                self._drop_all()
            self._note(error, "the embedding queue failed")

    def _take(self) -> Batch:
        """The next batch, of one class; expired jobs fall out."""
        now = time.monotonic()
        for job in [job for job in self._classes.jobs() if now >= job.deadline]:
            self._drop(job, self._overloaded(job))
        batch = self._classes.take()
        for job, _ in batch:
            if not job.begun.is_set():
                job.begun.set()
                _meter.waited(now - job.admitted_at)
        return batch

    def _run(self, batch: Batch) -> None:
        """Run a batch; where several callers' fails, their texts once more, singly.

        Not where memory ran out: the model has tried with half of it, and the texts are not to blame.
        """
        failure = self._run_part(batch)
        if failure is None:
            return
        if len({job for job, _ in batch}) > 1 and not out_of_memory(failure):
            self._run_singly(batch)
        else:
            self._fail(batch, failure)

    def _run_singly(self, batch: Batch) -> None:
        """Run each text alone and once, who has the least time first: a text that fails is its own caller's trouble.

        Where the model does not even embed a text that is nobody's, it is no text's fault, and the rest fails at once.
        """
        failures_in_a_row = 0
        for job, index in sorted(batch, key=lambda taken: taken[0].deadline):
            if self._closed or job.done.is_set():
                continue
            if time.monotonic() >= job.deadline:
                with self._changed:
                    self._drop(job, self._overloaded(job))
                continue
            failure = self._run_part([(job, index)])
            if failure is None:
                failures_in_a_row = 0
                continue
            self._fail([(job, index)], failure)
            failures_in_a_row += 1
            if failures_in_a_row == _FAILURES_BEFORE_PROBE:
                if not self._is_well(job.task):
                    self._fail(batch, failure)
                    return
                failures_in_a_row = 0

    def _is_well(self, task: Task) -> bool:
        self.batches_run += 1
        try:
            return len(self._encode(task, [_PROBE])) == 1
        except BaseException as error:
            self._note(error, "the embedding model fails whatever the text")
            return False

    def _fail(self, batch: Batch, failure: BaseException) -> None:
        """Fail the callers of a batch, but for those who are done."""
        with self._changed:
            for job, _ in batch:
                self._drop(job, _as_service_error(failure))

    def _note(self, error: BaseException, what: str) -> None:
        """By its type alone: a tokenizer's message can quote its input."""
        _meter.failed()
        logger.error("%s: %s", what, type(error).__name__)

    def _run_part(self, batch: Batch) -> BaseException | None:
        """Give these texts their rows; the error where the model fails on them."""
        started = time.monotonic()
        try:
            rows = self._encode(batch[0][0].task, [job.texts[index] for job, index in batch])
            if len(rows) != len(batch):
                raise ValueError("the model returned another number of rows than texts")
        except BaseException as error:
            self._note(error, "embedding batch failed")
            return error
        finally:
            if self._is_one_thread:
                go_anywhere()
            self.batches_run += 1
            _meter.batch(len(batch))

        with self._changed:
            batch_tokens = sum(job.tokens[index] for job, index in batch)
            seconds_per_token = (time.monotonic() - started) / batch_tokens
            self._seconds_per_token += 0.2 * (seconds_per_token - self._seconds_per_token)
            if batch_tokens >= self._full_tokens:
                self._seconds_per_full_token += 0.2 * (seconds_per_token - self._seconds_per_full_token)
            for (job, index), row in zip(batch, rows, strict=True):
                if not job.done.is_set():
                    self._classes.of(job).release(job.user, job.tokens[index])
                    job.fill(index, row)
                    if job.done.is_set():
                        self._forget(job)
        return None


def _as_service_error(failure: BaseException) -> MemoryServiceError:
    """A new error for each caller: one object raised in two threads mixes their tracebacks."""
    if isinstance(failure, MemoryServiceError):
        return type(failure)(failure.detail)
    error = ModelUnavailable("The embedding model failed.")
    error.__cause__ = failure
    return error
