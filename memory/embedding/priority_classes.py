"""What waits for the embedding model, by priority: queries before passages."""

from __future__ import annotations

from collections.abc import Iterator

from memory.embedding.job import Job, PriorityClass
from reranker.fair_queue import SHORT_TOKENS, FairQueue

Batch = list[tuple[Job, int]]  # the job and the index of one of its texts

# Somebody waits for an answer behind a query.
_CLASSES_IN_ORDER: tuple[PriorityClass, ...] = ("query", "passage")
# Under a constant stream of queries, passages still get one batch in nine.
QUERY_BATCHES_BEFORE_PASSAGES = 8
# One user's part of a batch of queries that several users share.
_USERS_IN_A_BATCH = 16


class PriorityClasses:
    """One fair queue a class; its caller holds the lock.

    `max_queued_tokens` is of passages, and an eighth of that of queries besides, so that a full indexing queue does
    not refuse a query. Passages that are one small batch, of a user with nothing else waiting, go among
    the queries, where at most one batch goes before them; they are charged there like queries.
    """

    def __init__(self, batch_tokens: int, max_queued_tokens: int):
        self._batch_tokens = batch_tokens
        self._queues: dict[PriorityClass, FairQueue[Job]] = {
            "query": FairQueue(max_queued_tokens // 8, quantum_tokens=batch_tokens // _USERS_IN_A_BATCH, rotates=False),
            "passage": FairQueue(max_queued_tokens, quantum_tokens=batch_tokens, rotates=True),
        }
        self._query_batches_in_a_row = 0

    def __bool__(self) -> bool:
        return any(self._queues.values())

    @property
    def queued_tokens(self) -> int:
        return sum(queue.queued_tokens for queue in self._queues.values())

    def tokens_up_to(self, job: Job) -> int:
        """Admitted tokens of the job's class and of those that go before it."""
        classes = _CLASSES_IN_ORDER[: _CLASSES_IN_ORDER.index(job.priority) + 1]
        return sum(self._queues[each].queued_tokens for each in classes)

    def jobs(self) -> Iterator[Job]:
        for queue in self._queues.values():
            yield from queue.jobs()

    def of(self, job: Job) -> FairQueue[Job]:
        """The queue of a job's class, once it is `classify`ed."""
        return self._queues[job.priority]

    def classify(self, job: Job) -> FairQueue[Job]:
        """Decide which class a new job waits in; the queue of that class."""
        small = job.task == "passage" and job.padded_tokens <= min(SHORT_TOKENS, self._batch_tokens)
        job.is_short = small and not any(self._queues[each].is_waiting(job.user) for each in ("query", "passage"))
        return self.of(job)

    def take(self) -> Batch:
        """The next batch, of one class; empty when nothing waits."""
        for queue in self._queues.values():
            queue.tidy()
        chosen: PriorityClass = next((each for each in _CLASSES_IN_ORDER if self._queues[each]), "passage")
        if self._query_batches_in_a_row >= QUERY_BATCHES_BEFORE_PASSAGES and self._queues["passage"]:
            chosen = "passage"
        overtook = chosen != "passage" and bool(self._queues["passage"])
        self._query_batches_in_a_row = self._query_batches_in_a_row + 1 if overtook else 0
        return self._queues[chosen].take(self._batch_tokens)
