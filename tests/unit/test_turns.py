"""One thread for many users: each in turn, late and cancelled work never begun, and no endless queue."""

import threading
import time

import pytest
from prometheus_client import REGISTRY

from memory.errors import ModelUnavailable, Overloaded
from memory.language.turns import WAITING_TOKENS_MAX, FairThread
from memory.metrics import QueueMeter

PATIENCE_SECONDS = 30
SHARE = WAITING_TOKENS_MAX // 4


class Held:
    """A FairThread that is busy until it is let go, and what it began in order."""

    def __init__(self):
        self.thread = FairThread("held", QueueMeter("spacy"))
        self.began: list[str] = []
        self._let_go = threading.Event()
        busy = threading.Event()

        def hold():
            busy.set()
            assert self._let_go.wait(PATIENCE_SECONDS)

        self.thread.submit(hold, user="first")
        assert busy.wait(PATIENCE_SECONDS)

    def submit(self, name: str, **of):
        return self.thread.submit(lambda: self.began.append(name), user=name[0], **of)

    def finish(self) -> list[str]:
        self._let_go.set()
        last = self.thread.submit(lambda: None, user="~")
        while waiting := [each for each in [*self.thread._unfinished] if not each.future.done()]:
            waiting[0].future.exception(PATIENCE_SECONDS)
        last.result(PATIENCE_SECONDS)
        return self.began


@pytest.fixture
def held():
    return Held()


def told(name: str) -> float:
    return REGISTRY.get_sample_value(f"memory_queue_{name}", {"model": "spacy"})


def test_a_user_with_one_piece_waits_for_one_of_each_other_and_not_for_all_of_one(held):
    for number in range(40):
        held.submit(f"a{number}")
    held.submit("b0")
    held.submit("b1")
    held.submit("c0")
    assert held.finish()[:7] == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_turns_are_by_what_a_piece_costs_and_not_by_pieces(held):
    for number in range(4):
        held.submit(f"a{number}", tokens=1_000)
        held.submit(f"b{number}", tokens=100)
    began = held.finish()
    assert began[:5] == ["a0", "b0", "b1", "b2", "b3"] and len(began) == 8


def test_every_piece_is_done_once_and_gives_what_its_work_gave():
    thread = FairThread("each")
    futures = [thread.submit(lambda n=n: n * n, user=f"u{n % 3}") for n in range(50)]
    assert [future.result(PATIENCE_SECONDS) for future in futures] == [n * n for n in range(50)]


class Uncaught(BaseException):
    """What no `except Exception` sees."""


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, SystemExit, Uncaught])
def test_what_the_work_raises_is_raised_to_whoever_waits_and_the_thread_goes_on(error):
    def fails():
        raise error

    thread = FairThread("fails")
    with pytest.raises(error):
        thread.submit(fails).result(PATIENCE_SECONDS)
    owner = thread._thread
    assert thread.submit(lambda: 1).result(PATIENCE_SECONDS) == 1
    assert thread._thread is owner and owner.is_alive()


def test_a_fault_of_the_queues_own_fails_those_who_wait_and_nobody_after_them(held, monkeypatch, caplog):
    queue = held.thread._queue
    first, other = held.submit("a"), held.submit("b")

    def faulty(batch_tokens):
        raise LookupError("a fault of ours")

    monkeypatch.setattr(queue, "take", faulty)
    held._let_go.set()
    for each in (first, other):
        with pytest.raises(ModelUnavailable):
            each.result(PATIENCE_SECONDS)
    assert held.thread.submit(lambda: 1).result(PATIENCE_SECONDS) == 1
    assert "LookupError" in caplog.text and "a fault of ours" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_replaced_by_whoever_comes_next(held, monkeypatch):
    held.finish()

    def dies():
        raise SystemExit

    # Raised where nothing catches it: in what catches.
    monkeypatch.setattr(held.thread, "_turn", dies)
    monkeypatch.setattr(held.thread, "_drop_all", dies)
    held.thread.submit(lambda: None)
    held.thread._thread.join(PATIENCE_SECONDS)
    monkeypatch.undo()
    assert held.thread.submit(lambda: 1).result(PATIENCE_SECONDS) == 1


def test_a_cancelled_piece_leaves_the_queue_and_never_runs(held):
    cancelled = [held.submit("a", tokens=SHARE // 4) for _ in range(4)]
    with pytest.raises(Overloaded):
        held.submit("a")
    assert all(future.cancel() for future in cancelled)
    for number in range(4):  # there is room again
        held.submit(f"a{number}", tokens=SHARE // 4)
    assert held.finish() == ["a0", "a1", "a2", "a3"]


def test_a_piece_whose_deadline_has_passed_is_refused_and_never_runs(held):
    late, in_time = held.submit("a", deadline=time.monotonic()), held.submit("b", deadline=time.monotonic() + 1e6)
    assert held.finish() == ["b"]
    with pytest.raises(Overloaded):
        late.result(PATIENCE_SECONDS)
    assert in_time.done()


def test_a_user_over_his_share_is_refused_and_nobody_else_is(held):
    held.submit("a", tokens=SHARE)
    with pytest.raises(Overloaded):
        held.submit("a")
    held.submit("b", tokens=SHARE)
    assert held.finish() == ["a", "b"]


def test_a_full_queue_refuses_whoever_comes(held):
    for user in "abcd":
        held.submit(user, tokens=SHARE)
    with pytest.raises(Overloaded):
        held.submit("e")
    held._let_go.set()


def test_the_queue_is_measured_without_a_series_for_anybody(held):
    waits, batches, refusals, failures = (
        told(name) for name in ("wait_ms_count", "batch_count", "refusals_total", "failed_total")
    )
    assert told("depth") == 1
    held.submit("a", tokens=SHARE)
    with pytest.raises(Overloaded):
        held.submit("a")
    held.submit("b", deadline=time.monotonic())
    held.thread.submit(lambda: 1 / 0, user="c")
    assert told("depth") == 4
    held.finish()
    assert told("depth") == 0
    # That which finish() waits for is one of them.
    assert told("wait_ms_count") - waits == 4
    assert told("batch_count") - batches == 3
    assert (told("refusals_total") - refusals, told("failed_total") - failures) == (2, 1)
