"""One thread for many users: each in turn, late and cancelled work never begun, and no endless queue."""

import threading
import time

import pytest

from memory.errors import Overloaded
from memory.language.turns import WAITING_MAX, FairThread

PATIENCE_SECONDS = 30


class Held:
    """A FairThread that is busy until it is let go, and what it began in order."""

    def __init__(self):
        self.thread = FairThread("held")
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
        self.thread.submit(lambda: None, user="~").result(PATIENCE_SECONDS)
        self.thread._executor.shutdown()
        return self.began


@pytest.fixture
def held():
    return Held()


def test_a_user_with_one_piece_waits_for_one_of_each_other_and_not_for_all_of_one(held):
    for number in range(40):
        held.submit(f"a{number}")
    held.submit("b0")
    held.submit("b1")
    held.submit("c0")
    assert held.finish()[:7] == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_every_piece_is_done_once_and_gives_what_its_work_gave():
    thread = FairThread("each")
    futures = [thread.submit(lambda n=n: n * n, user=f"u{n % 3}") for n in range(50)]
    assert [future.result(PATIENCE_SECONDS) for future in futures] == [n * n for n in range(50)]


def test_what_the_work_raises_is_raised_to_whoever_waits_and_the_thread_goes_on():
    thread = FairThread("fails")
    with pytest.raises(ZeroDivisionError):
        thread.submit(lambda: 1 / 0).result(PATIENCE_SECONDS)
    assert thread.submit(lambda: 1).result(PATIENCE_SECONDS) == 1


def test_a_cancelled_piece_leaves_the_queue_and_never_runs(held):
    cancelled = [held.submit(f"a{number}") for number in range(WAITING_MAX)]
    assert all(future.cancel() for future in cancelled)
    for number in range(WAITING_MAX - 1):  # there is room again
        held.submit(f"b{number}")
    assert held.finish() == [f"b{number}" for number in range(WAITING_MAX - 1)]


def test_a_piece_whose_deadline_has_passed_is_refused_and_never_runs(held):
    late, in_time = held.submit("a", deadline=time.monotonic()), held.submit("b", deadline=time.monotonic() + 1e6)
    assert held.finish() == ["b"]
    with pytest.raises(Overloaded):
        late.result(PATIENCE_SECONDS)
    assert in_time.done()


def test_a_full_queue_refuses_whoever_fills_it_and_takes_in_whoever_does_not(held):
    filling = [held.submit(f"a{number}") for number in range(WAITING_MAX)]
    with pytest.raises(Overloaded):
        held.submit("a-more")
    other = held.submit("b0")
    with pytest.raises(Overloaded):
        filling[-1].result(PATIENCE_SECONDS)
    filling[0].cancel()  # leaves room for the piece that finish() waits for
    began = held.finish()
    assert began[:2] == ["a1", "b0"] and len(began) == WAITING_MAX - 1
    assert other.done()


def test_the_executor_never_holds_more_turns_than_pieces_may_wait(held):
    for number in range(10 * WAITING_MAX):
        held.submit(f"a{number}").cancel()
    assert held.thread._executor._work_queue.qsize() <= WAITING_MAX
    assert held.finish() == []
