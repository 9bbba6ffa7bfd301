"""The queue before a reranking model: one owner thread, bounded work, absolute deadlines.

A forward pass cannot be stopped. So nothing is admitted that cannot end in time, a caller leaves
when its time is up whatever the model does, and what it left behind is not worked on. There is no
waiting timer: a batch is whatever waits when the model becomes free. Users take turns by tokens (`FairQueue`), so
a call's time is judged by what its user has waiting, and of each other user as much at most.

Longer than 250 lines on purpose: callers and the owner thread share one lock and the counts under it, and whether a
count is right can be seen only with both sides in view.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reranker import metrics
from reranker.backends import Backend, Pair
from reranker.breaker import Breaker
from reranker.config import DEFAULT_TIMEOUT_MS, RerankConfig
from reranker.fair_queue import FairQueue
from reranker.faults import reason_of
from reranker.jobs import Job
from reranker.results import Reason, RerankSkipped
from reranker.runner import Runner

logger = logging.getLogger(__name__)

# After a refusal that rests on the estimate alone, an idle model is measured again.
_REMEASURE_AFTER_SECONDS = 0.5
_CLOSE_PATIENCE_SECONDS = 5.0
_CHARACTERS_PER_TOKEN = 4
_FAILURES_IN_A_ROW = 2
# A fault of ours that stays would otherwise fill the log, and a core.
_AFTER_FAULT_SECONDS = 0.05
# Reasons that say nothing about the model's health.
_REFUSALS = frozenset[Reason | None]({"no_backend", "loading", "circuit_open", "deadline", "overloaded"})


class SkippedAfterAdmission(RerankSkipped):
    """The model was asked, and the caller waited for it."""


class Batcher:
    """Loads a backend in a thread of its own and runs it there, for any number of callers.

    `make` gives the backend. The thread probes the model when the breaker says so, and outlives
    whatever the model raises, `SystemExit` included. Any thread may call.
    """

    def __init__(self, name: str, make: Callable[[], Backend], config: RerankConfig):
        self.name = name
        self.breaker = Breaker(on_change=self._show_breaker)
        self.runner = Runner(make, config)
        self._config = config
        self._meter = config.meter
        self._queue = self._new_queue()  # what is not yet in a forward pass, and counts what is being prepared too
        self._limit_seconds = DEFAULT_TIMEOUT_MS / 1000
        self._doubtful = False  # a call was refused on the estimate alone
        self._stuck = False
        self._preparing = threading.Lock()
        self._changed = threading.Condition()
        self._closed = False
        self.batches_run = 0
        self._show_breaker("closed")
        self._thread = threading.Thread(target=self._own, name=f"reranker-{name}", daemon=True)
        self._thread.start()

    def score(
        self, query: str, texts: Sequence[str], started: float, timeout_ms: float, owner: str | None = None
    ) -> np.ndarray:
        """float32[n], one score per text; blocks until `timeout_ms` after `started` at most.

        `started` is on the `time.monotonic()` clock. `owner` is any name of whose turn it takes and whose share it is
        of the queue; what has none takes turns as one user, and has no share. Raises `RerankSkipped`, and its subclass
        `SkippedAfterAdmission` where the caller had to wait. A call is slow when it is not done in its time, and a
        probe when it takes longer than the latest call was given.
        """
        deadline = started + timeout_ms / 1000
        user = owner or ""
        rough_tokens = self._rough_tokens(query, texts)
        with self._changed:
            self._admit(owner, rough_tokens, deadline)
            self._limit_seconds = timeout_ms / 1000
            queue = self._queue
            queue.reserve(user, rough_tokens)
        try:
            pairs = self._prepared(query, texts, deadline)
        finally:
            with self._changed:
                queue.release(user, rough_tokens)

        job = Job(pairs, deadline, user)
        with self._changed:
            self._admit(owner, job.waiting_tokens, deadline)
            self._queue.add(job)
            self._meter.callers(+1)
            self._changed.notify()
        try:
            job.done.wait(max(0.0, deadline - time.monotonic()))
        finally:  # whatever made the caller leave, nobody works for it any more
            with self._changed:
                self._drop(job, "timeout")
                self._meter.callers(-1)
        self._record(job, late=time.monotonic() > deadline)
        if job.reason is not None:
            raise SkippedAfterAdmission(job.reason)
        return job.scores

    def status(self) -> dict[str, Any]:
        """How the model and its queue stand, for health checks and metrics; never waits for the model."""
        with self._changed:
            self._watch()
            queued_pairs = sum(len(job.waiting) for job in self._queue.jobs())
            queued_tokens = self._queue.queued_tokens
        backend, load = self.runner.backend, self.runner.load
        return {
            "state": load.state,
            "reason": None if load.state == "ready" else load.reason,
            "detail": load.detail,
            "runtime": getattr(backend, "runtime", None),
            "device": getattr(backend, "device", None),
            "dtype": getattr(backend, "dtype", None),
            "weights_sha256": getattr(backend, "weights_sha256", None),
            "loads": load.loads,
            "load_seconds": load.seconds,
            "breaker": self.breaker.state,
            "stuck": self._stuck,
            "queued_pairs": queued_pairs,
            "queued_tokens": queued_tokens,
            "batches": self.batches_run,
        }

    def close(self) -> None:
        """Stop after the running pass; whoever waits is skipped. A stuck thread is left behind."""
        with self._changed:
            self._closed = True
            self._skip_all("no_backend")
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_PATIENCE_SECONDS)

    # What callers do. All but `_record`, `_prepared` and `_rough_tokens` are called with the lock held.

    def _admit(self, owner: str | None, tokens: int, deadline: float) -> None:
        """Refuse at once what cannot be done in time; raises `RerankSkipped`."""
        self._watch()
        load = self.runner.load
        if self._closed:
            raise RerankSkipped("no_backend")
        if load.state != "ready":
            raise RerankSkipped(load.reason, load.detail)
        if self.breaker.state != "closed":
            raise RerankSkipped("circuit_open")
        if self._queue.is_full(tokens) or (owner is not None and self._queue.is_over_share(owner, tokens)):
            raise self._refusal("overloaded")
        seconds_left = deadline - time.monotonic()
        if self.runner.seconds_for(tokens) >= seconds_left:
            self._doubtful = True
            self._changed.notify()
            raise self._refusal("deadline")
        until_done = self.runner.seconds_for(self._queue.tokens_until_done(owner or "", tokens))
        if self.runner.seconds_left() + until_done >= seconds_left:
            raise self._refusal("overloaded")

    def _refusal(self, reason: Reason) -> RerankSkipped:
        self._meter.refused()
        return RerankSkipped(reason)

    def _watch(self) -> None:
        """Open the breaker, and say so once, when a forward pass does not come back."""
        seconds = self.runner.running_seconds()
        if seconds > self._config.stuck_after_seconds and not self._stuck:
            self._stuck = True
            logger.error("the reranker's model has not come back for %.1f s; its device may be stuck", seconds)
            if self.breaker.trip():
                self._skip_all("circuit_open")

    def _drop(self, job: Job, reason: Reason) -> None:
        if not job.done.is_set():
            self._queue.release(job.user, job.waiting_tokens)
            job.skip(reason)
            if not job.has_begun:
                self._meter.waited(time.monotonic() - job.admitted_at)
            if reason in ("timeout", "deadline"):
                self._meter.refused()

    def _skip_all(self, reason: Reason) -> None:
        for job in list(self._queue.jobs()):
            self._drop(job, reason)
        self._queue.tidy()

    def _new_queue(self) -> FairQueue[Job]:
        return FairQueue(self._config.max_queued_tokens, quantum_tokens=None, rotates=False)

    def _record(self, job: Job, late: bool) -> None:
        """Tell the breaker how a call went that was admitted; if that opens it, nobody waits on."""
        if job.reason not in _REFUSALS and self.breaker.record(slow=late or job.reason is not None):
            logger.warning("reranking is suspended, for calls were slow or failed (last: %s)", job.reason or "late")
            with self._changed:
                self._skip_all("circuit_open")
                self._changed.notify()

    def _prepared(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        """One caller at a time: more would take the model's cores from under it."""
        if not self._preparing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise RerankSkipped("overloaded")
        try:
            return self.runner.loaded_backend.prepare(query, texts, deadline)
        except Exception as error:
            raise RerankSkipped(reason_of(error)) from None
        finally:
            self._preparing.release()

    def _rough_tokens(self, query: str, texts: Sequence[str]) -> int:
        most = getattr(self.runner.backend, "max_tokens", self._config.max_tokens)
        return sum(min(most, (len(query) + len(text)) // _CHARACTERS_PER_TOKEN + 1) for text in texts)

    # What the owner does.

    def _own(self) -> None:
        try:
            while not self._closed:
                try:
                    self._step()
                # A fault of ours, or an exit that a model's library calls for: the thread must not die of it.
                except BaseException as error:
                    with self._changed:
                        self._begin_again()
                    self._count_failure("error")
                    logger.error("the reranker's queue failed: %s", type(error).__name__)
                    time.sleep(_AFTER_FAULT_SECONDS)
        finally:
            if self.runner.backend is not None:
                self.runner.backend.close()

    def _begin_again(self) -> None:
        """Skip all who wait, and begin with nothing counted, since a fault of ours may have left the counts wrong."""
        queue, self._queue = self._queue, self._new_queue()
        for job in list(queue.jobs()):
            if not job.done.is_set():
                job.skip("error")

    def _step(self) -> None:
        """Wait for something to do, and do it: run one batch, load, probe, or measure."""
        with self._changed:
            batch = self._take()
            if not batch:
                waits = [
                    self.runner.load.seconds_until_due(),
                    self.breaker.seconds_until_probe(),
                    self._until_measured(),
                ]
                soonest = min((seconds for seconds in waits if seconds is not None), default=None)
                if soonest is None or soonest > 0:
                    self._changed.wait(soonest)
                    return
        if batch:
            self._run(batch)
        elif self.runner.load.seconds_until_due() == 0:
            self.runner.load.run()
            if self.runner.load.state == "ready":
                metrics.loads.labels(self.name).inc()
        elif self.breaker.begin_probe():
            good = False
            try:
                good = self._probe()
            finally:  # half-open, nobody but this probe could close or open it
                self.breaker.end_probe(good=good)
        elif self._until_measured() == 0:
            self._probe()

    def _until_measured(self) -> float | None:
        """Refused calls do not reach the model, so it is on the owner to find the estimate outdated."""
        if not self._doubtful or self.breaker.state != "closed":
            return None
        return max(0.0, self.runner.ended_at + _REMEASURE_AFTER_SECONDS - time.monotonic())

    def _probe(self) -> bool:
        good = self.runner.probe(self._limit_seconds)
        with self._changed:
            self._stuck = self._doubtful = False
        return good

    def _take(self) -> list[tuple[Job, int]]:
        """The next batch, of the jobs that can still end in time."""
        now = time.monotonic()
        for job in list(self._queue.jobs()):
            if now >= job.deadline:
                self._drop(job, "timeout")
            elif job.waiting and now + self.runner.seconds_for(job.waiting_tokens) > job.deadline:
                self._drop(job, "deadline")
        if not self._queue:
            return []
        batch = self._queue.take(self.runner.loaded_backend.batch_tokens, self._config.batch_pairs)
        for job, i in batch:
            self._queue.release(job.user, job.tokens[i])
            if not job.has_begun:
                job.has_begun = True
                self._meter.waited(now - job.admitted_at)
        return batch

    def _run(self, batch: list[tuple[Job, int]]) -> None:
        """Run a batch; where several callers' fails, each one's pairs once more: what fails alone is its own trouble.

        Not where memory ran out: the runner has tried with half of it, and the pairs are not to blame.
        """
        reason = self._run_part(batch)
        if reason is None:
            return
        parts: dict[Job, list[tuple[Job, int]]] = {}
        for job, i in batch:
            parts.setdefault(job, []).append((job, i))
        failed = dict.fromkeys(parts, reason)
        if len(parts) > 1 and reason != "out_of_memory":
            self._run_each(parts, failed)
        with self._changed:
            for job, why in failed.items():
                self._drop(job, why)

    def _run_each(self, parts: dict[Job, list[tuple[Job, int]]], failed: dict[Job, Reason]) -> None:
        """Run each caller's pairs alone, and take out of `failed` whose went well.

        After two in a row that fail it is the model's fault, and the rest is not tried.
        """
        in_a_row = 0
        for job, part in parts.items():
            if in_a_row == _FAILURES_IN_A_ROW:
                return
            if job.done.is_set() or time.monotonic() >= job.deadline:
                continue
            why = self._run_part(part)
            if why is None:
                del failed[job]
                in_a_row = 0
            else:
                failed[job] = why
                in_a_row += 1

    def _run_part(self, batch: list[tuple[Job, int]]) -> Reason | None:
        """Give these pairs their scores; the reason where the model fails on them."""
        started = time.monotonic()
        reason = None
        try:
            scores = self.runner.scores([job.pairs[i] for job, i in batch])
        except BaseException as error:
            reason = reason_of(error)
            self._count_failure(reason)
            # Without the traceback's text: a message can quote what was said.
            logger.error("a reranking batch failed (%s): %s", reason, type(error).__name__)
        with self._changed:
            self._stuck = False
            self.batches_run += 1
            if reason is None:
                for n, (job, i) in enumerate(batch):
                    if not job.done.is_set():
                        job.fill(i, scores[n])
        self._meter.batch(len(batch))
        metrics.batch_pairs.observe(len(batch))
        metrics.batch_ms.observe((time.monotonic() - started) * 1000)
        return reason

    def _count_failure(self, reason: Reason) -> None:
        metrics.failed.labels(reason).inc()
        self._meter.failed()

    def _show_breaker(self, state: str) -> None:
        metrics.breaker_state.labels(self.name).set(metrics.BREAKER_STATES[state])
