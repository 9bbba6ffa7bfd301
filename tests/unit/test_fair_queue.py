"""Turns by tokens among the users of one priority class."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.embedding.job import Job
from memory.embedding.priority_classes import QUERY_BATCHES_BEFORE_PASSAGES, PriorityClasses
from reranker.fair_queue import SHORT_TOKENS, FairQueue

BATCH_TOKENS = 512
PLENTY = 10**9
LONGEST = 512
# How far two users' tags may be apart: what rides in a batch past the lowest, and one text.
APART = BATCH_TOKENS + LONGEST


def queue(**options) -> FairQueue:
    return FairQueue(PLENTY, **{"quantum_tokens": BATCH_TOKENS, "rotates": True} | options)


def job(user: str, *tokens: int, task="passage") -> Job:
    return Job(task, [f"{user} {n}" for n in range(len(tokens))], tokens, user=user)


def served(batch) -> dict[str, int]:
    found: dict[str, int] = {}
    for each, index in batch:
        found[each.user] = found.get(each.user, 0) + each.tokens[index]
    return found


def finish(fair: FairQueue, batch) -> None:
    for each, index in batch:
        fair.release(each.user, each.tokens[index])
        each.fill(index, None)


documents = st.lists(st.integers(1, LONGEST), min_size=1, max_size=12)


@given(
    backlogs=st.lists(st.lists(documents, min_size=1, max_size=6), min_size=2, max_size=5),
    quantum_tokens=st.sampled_from([32, BATCH_TOKENS]),
    rotates=st.booleans(),
)
def test_users_who_all_have_work_waiting_are_served_alike_at_every_moment(backlogs, quantum_tokens, rotates):
    fair = queue(quantum_tokens=quantum_tokens, rotates=rotates)
    left = {}
    for number, backlog in enumerate(backlogs):
        for tokens in backlog:
            fair.add(job(str(number), *tokens))
        left[str(number)] = sum(map(sum, backlog))
    got = dict.fromkeys(left, 0)
    while batch := fair.take(BATCH_TOKENS):
        for user, tokens in served(batch).items():
            got[user] += tokens
            left[user] -= tokens
        finish(fair, batch)
        still = [got[user] for user in left if left[user]]
        assert not still or max(still) - min(still) <= APART
    assert not any(left.values()) and not fair.queued_tokens and not fair.users


@given(seed=st.integers(0, 2**32), users=st.integers(2, 6), quantum_tokens=st.sampled_from([32, BATCH_TOKENS]))
def test_however_users_come_and_go_no_two_that_wait_on_drift_apart(seed, users, quantum_tokens):
    draw = random.Random(seed)
    fair = queue(quantum_tokens=quantum_tokens, rotates=False)
    both: dict[tuple[str, str], tuple[int, int]] = {}  # what each had been served when both began to wait
    total = dict.fromkeys(map(str, range(users)), 0)
    for _ in range(60):
        for user in total:
            if draw.random() < 0.5:
                fair.add(job(user, *(draw.randint(1, LONGEST) for _ in range(draw.randint(1, 5)))))
        waiting = {user for user in total if fair.is_waiting(user)}
        for pair in [(a, b) for a in waiting for b in waiting if a < b]:
            both.setdefault(pair, (total[pair[0]], total[pair[1]]))
        batch = fair.take(BATCH_TOKENS)
        for user, tokens in served(batch).items():
            total[user] += tokens
        finish(fair, batch)
        for pair in list(both):
            if not all(fair.is_waiting(user) for user in pair):
                del both[pair]
                continue
            (a, b), (a_before, b_before) = pair, both[pair]
            assert abs((total[a] - a_before) - (total[b] - b_before)) <= 2 * APART


def test_a_document_of_200_chunks_takes_turns_with_a_note():
    fair = queue()
    fair.add(job("large", *[500] * 200))
    fair.take(BATCH_TOKENS)
    fair.add(job("small", 400))
    assert served(fair.take(BATCH_TOKENS)) == {"small": 400}


def test_many_jobs_are_no_more_turns_than_one():
    fair = queue()
    for _ in range(40):
        fair.add(job("many", 500))
    fair.add(job("one", *[500] * 40))
    got = {"many": 0, "one": 0}
    for _ in range(20):
        for user, tokens in served(fair.take(BATCH_TOKENS)).items():
            got[user] += tokens
    assert got == {"many": 5000, "one": 5000}


def test_who_stayed_away_has_saved_up_nothing():
    fair = queue()
    fair.add(job("busy", *[500] * 100))
    for _ in range(50):
        fair.take(BATCH_TOKENS)
    fair.add(job("late", *[500] * 100))
    got = [next(iter(served(fair.take(BATCH_TOKENS)))) for _ in range(20)]
    assert got.count("busy") >= 9


def test_one_job_at_a_time_gains_nothing_over_a_backlog():
    fair = queue()
    fair.add(job("backlog", *[400] * 40))
    got = []
    for _ in range(20):
        if not fair.is_waiting("sipping"):
            fair.add(job("sipping", 400))
        got += served(fair.take(BATCH_TOKENS))
    assert 9 <= got.count("backlog") <= 11


def test_who_has_nothing_waiting_is_forgotten():
    fair = queue()
    for number in range(1_000):
        fair.add(job(f"passing {number}", 200))
        fair.add(job("always", 200))
        finish(fair, fair.take(BATCH_TOKENS))
        assert len(fair.users) < 10
    fair.add(job("always", 200))
    while batch := fair.take(BATCH_TOKENS):
        finish(fair, batch)
    assert not fair.users


def test_many_callers_do_not_make_the_batches_long_for_who_asks_one_by_one():
    fair = queue(quantum_tokens=32, rotates=False)
    for _ in range(40):
        fair.add(job("greedy", 20, task="query"))
    for number in range(10):
        fair.add(job(f"single {number}", 20, task="query"))
    shared = served(fair.take(BATCH_TOKENS))
    assert len(shared) == 11 and shared["greedy"] <= 40
    # The ten were just here and are on their way back: it fills no batch behind their backs.
    assert served(fair.take(BATCH_TOKENS)) == {"greedy": 20}
    assert served(fair.take(BATCH_TOKENS))["greedy"] > 200


def test_one_user_alone_fills_the_batches():
    fair = queue(quantum_tokens=32, rotates=False)
    for _ in range(40):
        fair.add(job("alone", 20, task="query"))
    assert len(fair.take(BATCH_TOKENS)) == BATCH_TOKENS // 20


class TestPriorityClasses:
    @staticmethod
    def add(classes: PriorityClasses, new: Job) -> Job:
        classes.classify(new).add(new)
        return new

    def test_a_short_write_goes_before_all_queries_that_wait(self):
        classes = PriorityClasses(BATCH_TOKENS, PLENTY)
        for number in range(200):
            self.add(classes, job(f"asks {number}", 30, task="query"))
        classes.take()
        write = self.add(classes, job("writes", 60, 60))
        assert {each for each, _ in classes.take()} == {write} and not write.waiting

    def test_of_two_batches_one_is_of_queries_however_many_write(self):
        classes = PriorityClasses(BATCH_TOKENS, PLENTY)
        for number in range(60):
            self.add(classes, job(f"writes {number}", SHORT_TOKENS))
            for _ in range(60):
                self.add(classes, job(f"asks {number}", 30, task="query"))
        tasks = [classes.take()[0][0].task for _ in range(30)]
        assert tasks == ["passage", "query"] * 15

    def test_who_writes_without_end_pays_for_it_like_who_asks(self):
        classes = PriorityClasses(BATCH_TOKENS, PLENTY)
        for number in range(10):
            for _ in range(400):
                self.add(classes, job(f"asks {number}", 30, task="query"))
        got, write = {"query": 0, "passage": 0}, None
        for _ in range(200):
            if write is None or not write.waiting:
                write = self.add(classes, job("writes", 120))
            batch = classes.take()
            got[batch[0][0].task] += sum(each.tokens[index] for each, index in batch)
        assert got["passage"] <= got["query"] / 10 + 4 * SHORT_TOKENS

    @pytest.mark.parametrize("tokens", [(SHORT_TOKENS + 1,), (100, 20), (500, 500)])
    def test_a_larger_write_waits_behind_the_queries_and_gets_one_batch_in_nine(self, tokens):
        classes = PriorityClasses(BATCH_TOKENS, PLENTY)
        write = self.add(classes, job("writes", *tokens))
        for number in range(1_000):
            self.add(classes, job(f"asks {number}", 500, task="query"))
        tasks = [classes.take()[0][0].task for _ in range(QUERY_BATCHES_BEFORE_PASSAGES + 1)]
        assert tasks == ["query"] * QUERY_BATCHES_BEFORE_PASSAGES + ["passage"]
        assert not write.is_short

    def test_a_users_second_write_at_once_is_not_a_short_one(self):
        classes = PriorityClasses(BATCH_TOKENS, PLENTY)
        writes = [self.add(classes, job("writes", 20)) for _ in range(3)]
        assert [write.is_short for write in writes] == [True, False, False]
