"""Who waits for a model takes turns by tokens, not by calls: start-time fair queueing.

P. Goyal, H. M. Vin, H. Cheng, "Start-Time Fair Queueing", SIGCOMM 1996. Each user has a tag, which
grows by the tokens that are served to him; whoever has the lowest is next. A user with nothing waiting comes in at
the virtual time or at his last tag, whichever is later: nobody saves up turns by staying away, nor gains by sending
one job at a time. The virtual time is the tag of what is in service: of a batch, the highest at which a user's turn
in it began, but never above the lowest that still waits. All users weigh the same.

Pure: no clock, no thread, no lock. It stands here, and not in memory, since the reranker's queue needs it too, and what
memory queues may use the reranker, but not the other way round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Protocol, TypeVar


class Work(Protocol):
    """A caller's texts on their way through a model. `tokens` is what each costs, at least 1."""

    user: str
    tokens: list[int]
    # Indices of the texts that wait, the next one last; a queue takes them off.
    waiting: list[int]
    # Goes among the others' as if it had been there earlier by SHORT_TOKENS.
    is_short: bool

    @property
    def unfinished_tokens(self) -> int: ...

    @property
    def kind(self) -> Hashable:
        """What the next text is like; asked while any waits."""

    def goes_with(self, kind: Any) -> bool:
        """Whether the next text may share a batch that began with one of `kind`; asked while any waits."""


W = TypeVar("W", bound=Work)
# A passage job of at most this many tokens, padding included, goes among the queries, and so much earlier than
# what its user was served allows.
SHORT_TOKENS = 128
# One user may have this part of a queue's tokens.
_USER_SHARE = 1 / 4


class _Flow(Generic[W]):
    """What waits of one user."""

    def __init__(self, user: str, start: int):
        self.user = user
        self.start = start
        self.jobs: deque[W] = deque()

    def order(self, job: W) -> int:
        return self.start - SHORT_TOKENS if job.is_short else self.start


class FairQueue(Generic[W]):
    """What waits of one priority class, at most `max_tokens` of it; its caller holds the lock.

    A single job is taken on an empty queue whatever its size, and a user's only job whatever his share. A batch
    holds what lies within `quantum_tokens` of the tag it begins at, so a user with much to do does not make the
    batches long for those who come with one text at a time; only where nobody else waits, nor was in the batch
    before, does he fill one; a `quantum_tokens` of None is as much as a batch holds. With `rotates` one user's jobs
    take turns batch by batch, else they keep their order.
    """

    def __init__(self, max_tokens: int, *, quantum_tokens: int | None, rotates: bool):
        self._max_tokens = max_tokens
        self._quantum_tokens = quantum_tokens
        self._rotates = rotates
        self._flows: dict[str, _Flow[W]] = {}
        # Of users with nothing waiting, while they are ahead of the virtual time.
        self._finished: dict[str, int] = {}
        self._virtual_time = 0
        self._tokens: dict[str, int] = {}  # admitted and not done, by user
        self._last_users: set[str] = set()
        self._last_was_short = False
        self.queued_tokens = 0

    def __bool__(self) -> bool:
        return bool(self._flows)

    @property
    def users(self) -> set[str]:
        """Everybody it knows anything of."""
        return {*self._flows, *self._finished, *self._tokens, *self._last_users}

    def jobs(self) -> Iterator[W]:
        for flow in self._flows.values():
            yield from flow.jobs

    def is_waiting(self, user: str) -> bool:
        return user in self._flows and any(job.waiting for job in self._flows[user].jobs)

    def is_full(self, tokens: int) -> bool:
        """Whether so much more is too much for the queue, whoever sent it."""
        return bool(self.queued_tokens) and self.queued_tokens + tokens > self._max_tokens

    def is_over_share(self, user: str, tokens: int) -> bool:
        """Whether so much more is too much of this user."""
        his = self._tokens.get(user, 0)
        return bool(his) and his + tokens > self._max_tokens * _USER_SHARE

    def tokens_of(self, user: str) -> int:
        """What waits of this user's."""
        return self._tokens.get(user, 0)

    def tokens_until_done(self, user: str, tokens: int) -> int:
        """What would be served before the last of so much more: his own, and of each other user as much at most."""
        his = self._tokens.get(user, 0) + tokens
        return his + sum(min(his, others) for other, others in self._tokens.items() if other != user)

    def add(self, job: W) -> None:
        flow = self._flows.get(job.user)
        if flow is None:
            start = max(self._virtual_time, self._finished.pop(job.user, 0))
            flow = self._flows[job.user] = _Flow(job.user, start)
        flow.jobs.append(job)
        self.reserve(job.user, job.unfinished_tokens)

    def reserve(self, user: str, tokens: int) -> None:
        """Count so much as this user's, of what is yet to be added; `release` ends it."""
        if tokens:
            self.queued_tokens += tokens
            self._tokens[user] = self._tokens.get(user, 0) + tokens

    def release(self, user: str, tokens: int) -> None:
        """So much of a user is done, or will not be."""
        if not tokens:
            return
        self.queued_tokens -= tokens
        self._tokens[user] -= tokens
        if not self._tokens[user]:
            del self._tokens[user]

    def tidy(self) -> None:
        """Forget jobs of which nothing waits, and users who have nothing waiting and nothing to make up for."""
        for user, flow in list(self._flows.items()):
            flow.jobs = deque(job for job in flow.jobs if job.waiting)
            if not flow.jobs:
                del self._flows[user]
                self._finished[user] = flow.start
        if not self._flows:
            self._finished.clear()
            self._last_users = set()
            self._last_was_short = False
        self._finished = {user: tag for user, tag in self._finished.items() if tag > self._virtual_time}

    def take(self, batch_tokens: int, most_texts: int | None = None) -> list[tuple[W, int]]:
        """The next batch, as (job, index of its text), each taken off its job.

        Of one kind, at most `batch_tokens` with padding and `most_texts` (None: any number), or a single text.
        """
        self.tidy()
        if not self._flows:
            return []
        quantum_tokens = batch_tokens if self._quantum_tokens is None else self._quantum_tokens
        starts = {user: flow.start for user, flow in self._flows.items()}
        # Who was in the last batch and has just been answered is likely to ask again while this one runs.
        away = [self._finished.get(user, self._virtual_time) for user in self._last_users - self._flows.keys()]
        leader = self._leader()
        first = leader.jobs[0]
        if self._flows.keys() | self._last_users == {leader.user}:
            horizon = None
        else:
            # Short passages come all at once: queries have the next turn.
            horizon = min([leader.order(first), *away]) + (2 * SHORT_TOKENS if first.is_short else quantum_tokens)
        batch = list(self._fitting(first.kind, horizon, batch_tokens, most_texts))
        self._last_users = {job.user for job, _ in batch}
        self._last_was_short = first.is_short
        self._advance(max(starts[user] for user in self._last_users), away, quantum_tokens)
        if self._rotates:
            had_turn = {id(job) for job, _ in batch}
            for user in self._last_users:
                flow = self._flows[user]
                flow.jobs = deque(sorted(flow.jobs, key=lambda job: id(job) in had_turn))
        return batch

    def _advance(self, begun: int, away: list[int], quantum_tokens: int) -> None:
        """Set the virtual time after a batch; it waits for those who are away, but for no more than a quantum."""
        left = [flow.start for user, flow in self._flows.items() if self.is_waiting(user)]
        served = min([begun, *left])
        if away and left:
            served = min(served, max(min(away), min(left) - quantum_tokens))
        self._virtual_time = max(self._virtual_time, served)

    def _leader(self) -> _Flow[W]:
        """Whose turn it is. Of two batches in a row, one is of queries, where any wait."""
        flows = list(self._flows.values())
        if self._last_was_short:
            flows = [flow for flow in flows if not flow.jobs[0].is_short] or flows
        return min(flows, key=lambda flow: flow.order(flow.jobs[0]))

    def _fitting(
        self, kind: Hashable, horizon: int | None, batch_tokens: int, most_texts: int | None
    ) -> Iterator[tuple[W, int]]:
        """Texts that go with `kind` by their users' tags, below `horizon`, while they fit; each is charged as taken."""
        turns = []
        for position, flow in enumerate(self._flows.values()):
            if jobs := deque(job for job in flow.jobs if job.kind == kind):
                turns.append((flow.order(jobs[0]), position, flow, jobs))
        heapify(turns)
        taken = longest = 0
        while turns:
            tag, position, flow, jobs = heappop(turns)
            job = jobs[0]
            longest = max(longest, job.tokens[job.waiting[-1]])
            if taken and (longest * (taken + 1) > batch_tokens or (horizon is not None and tag >= horizon)):
                return
            if taken == most_texts:
                return
            taken += 1
            index = job.waiting.pop()
            flow.start += job.tokens[index]
            yield job, index
            if not job.waiting or not job.goes_with(kind):
                jobs.popleft()
            if jobs:
                heappush(turns, (flow.order(jobs[0]), position, flow, jobs))
