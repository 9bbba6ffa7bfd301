"""The queue before the embedding model, with a model that waits until it is let go: turns by user, contained faults."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress

import numpy as np
import pytest
from prometheus_client import REGISTRY

from memory.embedding import queue as queue_module
from memory.embedding.job import Job
from memory.embedding.queue import _PROBE, EmbedderQueue
from memory.errors import ModelUnavailable, Overloaded
from tests.processors import on_two_processors

BATCH_TOKENS = 100
MAX_QUEUED_TOKENS = 8_000
PATIENCE_SECONDS = 30


class Model:
    """Gives each text its number as its row, or 0, once it is let go; texts named bad are its undoing."""

    def __init__(self):
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.may_pass = threading.Event()
        self.raises: BaseException | None = None
        self.at_next: Callable[[], None] | None = None

    def encode(self, task, texts):
        self.batches.append(list(texts))
        at_next, self.at_next = self.at_next, None
        if at_next:
            at_next()
        self.entered.release()
        assert self.may_pass.wait(PATIENCE_SECONDS)
        if self.raises:
            raise self.raises
        if any(text.startswith("bad") for text in texts):
            raise RuntimeError("the text was: secret")
        numbers = [text.split()[-1] for text in texts]
        return np.array([[float(number) if number.isdigit() else 0.0] for number in numbers])


class Callers:
    """Calls of the queue in threads, each made once the one before it waits."""

    def __init__(self):
        self.model = Model()
        self.queue = EmbedderQueue(self.model.encode, batch_tokens=BATCH_TOKENS, max_queued_tokens=MAX_QUEUED_TOKENS)
        self._pool = ThreadPoolExecutor(64)

    def embed(self, user: str, *numbers: int, tokens=10, task="passage", what="text", deadline=None) -> Future:
        before = self.queue.queued_tokens
        texts = [f"{what} {user} {number}" for number in numbers]
        future = self._pool.submit(self.queue.embed, task, texts, [tokens] * len(texts), deadline, user)
        while self.queue.queued_tokens == before and not future.done():
            time.sleep(0.001)
        return future

    def hold(self) -> Future:
        """Occupy the model, so that what follows has to wait."""
        future = self.embed("holder", 0, task="query")
        assert self.model.entered.acquire(timeout=PATIENCE_SECONDS)
        return future

    def let_go(self) -> None:
        self.model.may_pass.set()

    def let_go_and_then(self, act) -> None:
        """Let the held batch pass, and act as the next one reaches the model."""
        self.model.at_next = act
        self.let_go()

    def let_go_and_then_raise(self, error: BaseException) -> None:
        self.let_go_and_then(lambda: setattr(self.model, "raises", error))

    def users_by_batch(self) -> list[set[str]]:
        return [{text.split()[1] for text in batch} for batch in self.model.batches[1:]]

    def close(self) -> None:
        self.let_go()
        self._pool.shutdown()
        self.queue.close()


@pytest.fixture
def callers():
    callers = Callers()
    yield callers
    callers.close()


def rows(future: Future) -> list[float]:
    return [float(row[0]) for row in future.result(PATIENCE_SECONDS)]


def test_a_documents_pieces_take_turns_with_another_users(callers):
    callers.hold()
    large = callers.embed("large", *range(40), tokens=50)
    other = callers.embed("other", 1, 2, 3, 4, tokens=50)
    callers.let_go()
    assert rows(other) == [1, 2, 3, 4]
    assert rows(large) == list(range(40))
    assert callers.users_by_batch()[:4] == [{"large", "other"}] * 4


def test_many_callers_of_one_user_have_the_turns_of_one(callers):
    callers.hold()
    many = [callers.embed("many", n, tokens=20, task="query") for n in range(12)]
    single = [callers.embed(f"single-{n}", n, tokens=20, task="query") for n in range(3)]
    callers.let_go()
    for future in [*many, *single]:
        future.result(PATIENCE_SECONDS)
    assert callers.users_by_batch()[0] == {"many", "single-0", "single-1", "single-2"}
    assert len(callers.model.batches[1]) == 4


def test_a_short_write_goes_right_behind_the_running_batch(callers):
    callers.hold()
    queries = [callers.embed(f"asks-{n}", n, tokens=60, task="query") for n in range(12)]
    write = callers.embed("writes", 7)
    callers.let_go()
    assert rows(write) == [7]
    for query in queries:
        query.result(PATIENCE_SECONDS)
    assert callers.users_by_batch()[0] == {"writes"}


def test_short_writes_of_several_users_share_a_batch_and_never_one_with_queries(callers):
    callers.hold()
    query = callers.embed("asks", 1, task="query")
    writes = [callers.embed(f"writes-{n}", n) for n in range(5)]
    callers.let_go()
    for future in [query, *writes]:
        future.result(PATIENCE_SECONDS)
    assert callers.users_by_batch() == [{f"writes-{n}" for n in range(5)}, {"asks"}]


def test_a_user_over_his_share_is_refused_at_once_and_nobody_else_is(callers):
    callers.hold()
    waiting = [callers.embed("greedy", *range(10), tokens=90), callers.embed("greedy", *range(11), tokens=90)]
    with pytest.raises(Overloaded, match="this user's") as refused:
        callers.embed("greedy", *range(10), tokens=90).result(PATIENCE_SECONDS)
    assert refused.value.retry_after_seconds >= 1
    assert len(callers.model.batches) == 1
    waiting += [callers.embed("other", *range(20), tokens=90), callers.embed("greedy", 1, task="query")]
    callers.let_go()
    for future in waiting:
        future.result(PATIENCE_SECONDS)
    assert callers.embed("greedy", 1, 2).result(PATIENCE_SECONDS)


def test_a_users_only_document_is_taken_whatever_its_share(callers):
    callers.hold()
    small = callers.embed("other", 1, 2, tokens=90)
    large = callers.embed("large", *range(50), tokens=90)
    callers.let_go()
    assert rows(large) == list(range(50))
    assert rows(small) == [1, 2]


def test_retry_after_is_what_waits_at_the_measured_seconds_a_token(callers):
    callers.let_go()
    callers.embed("first", 1).result(PATIENCE_SECONDS)
    callers.model.may_pass.clear()
    callers.hold()
    waiting = [callers.embed("greedy", *range(10), tokens=90), callers.embed("greedy", *range(10), tokens=90)]
    callers.queue._seconds_per_token = 0.01
    with pytest.raises(Overloaded) as refused:
        callers.embed("greedy", *range(10), tokens=90).result(PATIENCE_SECONDS)
    assert refused.value.retry_after_seconds == 19  # (10 + 2 x 900) tokens, rounded up
    with pytest.raises(Overloaded) as too_late:
        callers.embed("asks", 1, task="query", deadline=time.monotonic() - 1).result(PATIENCE_SECONDS)
    assert too_late.value.retry_after_seconds == 1  # no passage goes before a query
    callers.let_go()
    for future in waiting:
        future.result(PATIENCE_SECONDS)


def test_what_cannot_be_done_by_its_deadline_is_refused_before_it_is_tried(callers):
    # Of short batches, which take nearly as long whatever is in them, nothing follows for long ones.
    callers.queue._seconds_per_token = 1000.0
    held = callers.hold()
    assert not callers.embed("alice", 1, tokens=50, deadline=time.monotonic() + PATIENCE_SECONDS).done()
    callers.queue._seconds_per_full_token = 1.0
    with pytest.raises(Overloaded):
        callers.embed("bob", 1, tokens=200, deadline=time.monotonic() + PATIENCE_SECONDS).result(PATIENCE_SECONDS)
    assert not callers.embed("bob", 2, tokens=200, deadline=time.monotonic() + 1000).done()
    assert not callers.embed("carol", 1, tokens=200).done()
    callers.model.may_pass.set()
    held.result(PATIENCE_SECONDS)


def test_deadlines_drop_and_never_order(callers):
    callers.hold()
    patient = callers.embed("patient", 1, tokens=60, task="query")
    hurried = callers.embed("hurried", 2, tokens=60, task="query", deadline=time.monotonic() + 60)
    late = callers.embed("late", 3, tokens=60, task="query", deadline=time.monotonic() + 0.05)
    with pytest.raises(Overloaded):
        late.result(PATIENCE_SECONDS)
    callers.let_go()
    assert (rows(patient), rows(hurried)) == ([1], [2])
    assert callers.users_by_batch() == [{"patient"}, {"hurried"}]
    assert callers.queue.queued_tokens == 0


def test_a_poisonous_text_fails_alone_and_every_other_caller_of_its_batch_is_served(callers):
    callers.hold()
    bad = [callers.embed("bad", 1, task="query", what="bad"), callers.embed("worse", 2, task="query", what="bad")]
    good = [callers.embed(f"good-{n}", n, task="query") for n in range(4)]
    good.append(callers.embed("bad", 9, task="query"))
    callers.let_go()
    assert [rows(future) for future in good] == [[0], [1], [2], [3], [9]]
    for future in bad:
        with pytest.raises(ModelUnavailable) as failed:
            future.result(PATIENCE_SECONDS)
        assert "secret" not in str(failed.value)
    assert {"bad", "worse", "good-0"} <= callers.users_by_batch()[0]
    assert callers.queue.queued_tokens == 0


def test_texts_that_all_fail_are_each_asked_for_once_more_alone_and_no_more(callers):
    callers.hold()
    failing = [callers.embed(f"user-{n}", n, task="query", what="bad") for n in range(4)]
    callers.let_go()
    for future in failing:
        with pytest.raises(ModelUnavailable):
            future.result(PATIENCE_SECONDS)
    first, *others = callers.model.batches[1:]
    assert len(first) == 4
    # After two in a row, one that is nobody's: the model is well, and the others may have been.
    assert others == [*([text] for text in first[:2]), [_PROBE], *([text] for text in first[2:]), [_PROBE]]
    assert callers.queue.queued_tokens == 0


def test_a_model_that_fails_whatever_the_text_is_asked_three_times_more_whatever_the_batch(callers):
    callers.hold()
    failing = [callers.embed(f"user-{n}", n, task="query") for n in range(9)]
    callers.let_go_and_then_raise(RuntimeError("device"))
    for future in failing:
        with pytest.raises(ModelUnavailable):
            future.result(PATIENCE_SECONDS)
    assert [len(batch) for batch in callers.model.batches[1:]] == [9, 1, 1, 1]
    callers.model.raises = None
    assert rows(callers.embed("next", 2)) == [2]
    assert callers.queue.queued_tokens == 0


def test_a_batch_for_which_memory_ran_out_is_not_run_again(callers):
    callers.hold()
    failing = [callers.embed(f"user-{n}", n, task="query") for n in range(4)]
    callers.let_go_and_then_raise(MemoryError())
    for future in failing:
        with pytest.raises(ModelUnavailable):
            future.result(PATIENCE_SECONDS)
    assert [len(batch) for batch in callers.model.batches[1:]] == [4]


def test_one_callers_batch_that_fails_is_not_run_again(callers):
    callers.hold()
    failing = callers.embed("user", *range(6), tokens=20, what="bad")
    callers.let_go()
    with pytest.raises(ModelUnavailable):
        failing.result(PATIENCE_SECONDS)
    assert rows(callers.embed("next", 2)) == [2]
    assert [len(batch) for batch in callers.model.batches[1:]] == [5, 1]


def test_after_a_failure_who_has_the_least_time_comes_first_and_who_has_none_left_is_not_run(callers):
    callers.hold()
    now = time.monotonic()
    bad = callers.embed("bad", 1, task="query", what="bad")
    patient = callers.embed("patient", 2, task="query", deadline=now + 1000)
    hurried = callers.embed("hurried", 3, task="query", deadline=now + 500)
    late = callers.embed("late", 4, task="query", deadline=now + 900)
    (of_late,) = (job for job in callers.queue._unfinished if job.user == "late")
    callers.let_go_and_then(lambda: setattr(of_late, "deadline", 0.0))
    assert (rows(hurried), rows(patient)) == ([3], [2])
    for future, refused in ((bad, ModelUnavailable), (late, Overloaded)):
        with pytest.raises(refused):
            future.result(PATIENCE_SECONDS)
    assert callers.users_by_batch()[1:] == [{"hurried"}, {"patient"}, {"bad"}]


def test_what_fails_alone_costs_its_caller_the_whole_of_his_texts_and_they_are_run_no_more(callers):
    callers.hold()
    bad = callers.embed("bad", *range(6), tokens=20, what="bad", deadline=time.monotonic() + 500)
    good = callers.embed("good", *range(6), tokens=20, deadline=time.monotonic() + 1000)
    callers.let_go()
    assert rows(good) == list(range(6))
    with pytest.raises(ModelUnavailable):
        bad.result(PATIENCE_SECONDS)
    asked = [[text.split()[0] for text in batch] for batch in callers.model.batches[1:]]
    assert sorted(asked[0]) == ["bad"] * 3 + ["text"] * 2
    assert asked[1:] == [["bad"], ["text"], ["text"], ["text"] * 4]


def test_a_fault_of_the_queues_own_fails_those_who_wait_and_nobody_after_them(callers, monkeypatch):
    callers.hold()
    waiting = [callers.embed("first", 1, 2, tokens=90), callers.embed("second", 1, task="query")]

    def fault():
        monkeypatch.undo()
        raise KeyError("fault")

    monkeypatch.setattr(callers.queue, "_take", fault)
    callers.let_go()
    for future in waiting:
        with pytest.raises(ModelUnavailable):
            future.result(PATIENCE_SECONDS)
    assert callers.queue.queued_tokens == 0
    assert rows(callers.embed("third", 3)) == [3]
    assert callers.queue.is_alive


class Uncaught(BaseException):
    """What no `except Exception` sees."""


WHATEVER = [MemoryError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit, Uncaught]


def failures() -> float:
    return REGISTRY.get_sample_value("memory_queue_failed_total", {"model": "embedding"})


@pytest.mark.parametrize("error", WHATEVER)
def test_whatever_the_model_raises_fails_that_batch_and_the_thread_goes_on(callers, caplog, error):
    held = callers.hold()
    owner, before = callers.queue._thread, failures()
    callers.model.raises = error("the text was: secret")
    callers.let_go()
    with pytest.raises(ModelUnavailable):
        held.result(PATIENCE_SECONDS)
    callers.model.raises = None
    assert rows(callers.embed("next", 2, task="query")) == [2]
    assert callers.queue._thread is owner and owner.is_alive()
    assert (failures() - before, callers.queue.queued_tokens) == (1, 0)
    assert error.__name__ in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("error", WHATEVER)
def test_whatever_is_raised_while_a_batch_is_chosen_fails_those_who_wait_and_the_thread_goes_on(
    callers, caplog, monkeypatch, error
):
    callers.hold()
    waiting = [callers.embed("first", 1, 2, tokens=90), callers.embed("second", 1, task="query")]
    owner, before = callers.queue._thread, failures()

    def fault():
        monkeypatch.undo()
        raise error("secret")

    monkeypatch.setattr(callers.queue._classes, "take", fault)
    callers.let_go()
    for future in waiting:
        with pytest.raises(ModelUnavailable):
            future.result(PATIENCE_SECONDS)
    assert rows(callers.embed("third", 3)) == [3]
    assert callers.queue._thread is owner and owner.is_alive()
    assert (failures() - before, callers.queue.queued_tokens) == (1, 0)
    assert error.__name__ in caplog.text and "secret" not in caplog.text


def test_a_fault_of_ours_in_the_middle_of_counting_leaves_nothing_counted(callers, monkeypatch):
    waiting = [callers.hold(), callers.embed("waits", 7)]
    owner = callers.queue._thread

    def fault(index, row):
        raise Uncaught

    (of_holder,) = (job for job in callers.queue._unfinished if job.user == "holder")
    monkeypatch.setattr(of_holder, "fill", fault)
    callers.let_go()
    for future in waiting:
        with pytest.raises(ModelUnavailable):
            future.result(PATIENCE_SECONDS)
    assert rows(callers.embed("next", 8)) == [8]
    assert callers.queue._thread is owner and not callers.queue.queued_tokens


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_owner_thread_is_replaced_and_leaks_nothing(callers, monkeypatch):
    def dies():
        monkeypatch.undo()
        raise SystemExit

    held = callers.hold()
    waiting = callers.embed("waits", 1, task="query")
    monkeypatch.setattr(callers.queue, "_turn", dies)
    owner = callers.queue._thread
    callers.let_go()
    assert rows(held) == [0]
    with pytest.raises(ModelUnavailable):
        waiting.result(PATIENCE_SECONDS)
    assert not owner.is_alive()
    assert rows(callers.embed("next", 2)) == [2]
    assert callers.queue.queued_tokens == 0


def test_no_texts_are_answered_at_once(callers):
    assert callers.queue.embed("passage", [], []) == []
    assert not callers.model.batches


def test_a_users_texts_and_name_do_not_stay(callers):
    callers.let_go()
    for number in range(50):
        callers.embed(f"user-{number}", number, task="query").result(PATIENCE_SECONDS)
    with callers.queue._changed:
        callers.queue._classes.take()  # what the owner does before it waits
        assert not any(queue.users for queue in callers.queue._classes._queues.values())
    assert not callers.queue._unfinished


def test_the_queue_is_measured_without_a_series_for_anybody(callers):
    def value(name: str) -> float:
        return REGISTRY.get_sample_value(name, {"model": "embedding"})

    waits, batches, texts = (value(f"memory_queue_{name}") for name in ("wait_ms_count", "batch_count", "batch_sum"))
    callers.hold()
    waiting = [callers.embed("one", 1, task="query"), callers.embed("two", 2, task="query")]
    gave_up = callers.embed("gone", 3, task="query", deadline=time.monotonic() + 0.05)
    with suppress(Overloaded):
        gave_up.result(PATIENCE_SECONDS)
    assert value("memory_queue_depth") == 3
    callers.let_go()
    for future in waiting:
        future.result(PATIENCE_SECONDS)
    assert value("memory_queue_depth") == 0
    assert value("memory_queue_wait_ms_count") - waits == 4
    assert value("memory_queue_batch_count") - batches == 2
    assert value("memory_queue_batch_sum") - texts == 3


def test_a_job_counts_a_text_without_tokens_as_one():
    assert Job("passage", ["", ""], [0, 3]).unfinished_tokens == 4


def test_a_machine_that_halts_in_a_short_batch_does_not_make_long_work_seem_hopeless():
    def encode(task, texts):
        if texts == ["halts"]:
            time.sleep(0.5)
        return np.zeros((len(texts), 2))

    queue = EmbedderQueue(encode, batch_tokens=128, max_queued_tokens=100_000, full_tokens=256)
    with closing(queue):
        queue.embed("passage", ["halts"], [70])
        texts = ["long"] * 100
        assert len(queue.embed("passage", texts, [200] * 100, time.monotonic() + 10)) == 100


def test_who_asks_a_free_model_goes_on_once_it_has_begun(callers, monkeypatch):
    monkeypatch.setattr(queue_module, "_BEGIN_MAX_SECONDS", PATIENCE_SECONDS)
    take = callers.queue._take
    monkeypatch.setattr(callers.queue, "_take", lambda: time.sleep(0.05) or take())
    job = Job("query", ["text asks 3"], [10], user="asks")
    callers.queue.ask(job)
    assert job.begun.is_set() and not job.done.is_set()
    callers.let_go()
    assert callers.queue.rows_of(job)[0] == 3


def test_who_asks_behind_others_goes_on_at_once(callers, monkeypatch):
    monkeypatch.setattr(queue_module, "_BEGIN_MAX_SECONDS", 10 * PATIENCE_SECONDS)
    callers._pool.submit(callers.queue.embed, "query", ["text holder 0"], [10], None, "holder")
    assert callers.model.entered.acquire(timeout=PATIENCE_SECONDS)
    job = Job("query", ["text asks 3"], [10], user="asks")
    callers._pool.submit(callers.queue.ask, job).result(PATIENCE_SECONDS)
    assert not job.begun.is_set()
    callers.let_go()
    assert callers.queue.rows_of(job)[0] == 3


def test_who_asks_waits_for_an_owner_that_does_not_come_a_moment_only(callers):
    with callers.queue._changed:
        job = Job("query", ["text asks 3"], [10], user="asks")
        callers.queue.ask(job)
        assert not job.begun.is_set()
    callers.let_go()
    assert callers.queue.rows_of(job)[0] == 3


@on_two_processors
@pytest.mark.parametrize("is_one_thread", [True, False])
def test_a_model_of_one_thread_begins_on_the_other_half_of_the_processors(monkeypatch, is_one_thread):
    """Seen by the owner as it takes a batch, while it computes, and by who has its rows.

    It binds itself to what it began with when it ends, as OpenVINO's threads library does.
    """
    monkeypatch.setattr(queue_module, "_BEGIN_MAX_SECONDS", PATIENCE_SECONDS)
    everywhere, at_begin, after = os.sched_getaffinity(0), [], []
    asked = threading.Event()

    def encode(task, texts):
        assert asked.wait(PATIENCE_SECONDS)
        after.append(os.sched_getaffinity(0))
        os.sched_setaffinity(0, at_begin[-1])
        if texts == ["bad"]:
            raise RuntimeError
        return np.zeros((len(texts), 2))

    queue = EmbedderQueue(encode, batch_tokens=10, max_queued_tokens=100, is_one_thread=is_one_thread)
    take = queue._take

    def seen():
        mask = os.sched_getaffinity(0)
        if batch := take():
            at_begin.append(mask)
        return batch

    monkeypatch.setattr(queue, "_take", seen)
    with closing(queue):
        for text in ("good", "bad", "good"):
            job = Job("query", [text], [10])
            queue.ask(job)
            assert os.sched_getaffinity(0) == everywhere
            asked.set()
            with suppress(ModelUnavailable):
                queue.rows_of(job)
            after.append(os.sched_getaffinity(queue._thread.native_id))
            asked.clear()
    assert len(at_begin) == 3 and after == [everywhere] * 6
    assert all(mask < everywhere if is_one_thread else mask == everywhere for mask in at_begin)


def test_a_caller_binds_nothing_by_the_number_of_an_owner_that_has_ended(callers, monkeypatch):
    bound = []
    monkeypatch.setattr(queue_module, "apart_from", lambda thread_id: bound.append(thread_id) or nullcontext())
    callers.queue._is_one_thread = True
    callers.let_go()
    assert rows(callers.embed("asks", 3)) == [3]
    callers.queue.close()
    with pytest.raises(ModelUnavailable):
        callers.queue.ask(Job("query", ["text asks 3"], [10]))
    assert bound == [callers.queue._thread.native_id, None]
