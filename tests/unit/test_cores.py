"""Where two threads may run, by the masks that the kernel keeps; real threads, and no look at what they gain."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from memory.embedding.cores import apart_from, go_anywhere

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two processors"
)
ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


class Sleeper:
    """A thread that sleeps, and does what it is told when it is woken."""

    def __init__(self):
        self._wake, self.woken = threading.Event(), lambda: None
        self.thread = threading.Thread(target=lambda: (self._wake.wait(30), self.woken()))
        self.thread.start()

    @property
    def id(self) -> int:
        return self.thread.native_id

    @property
    def may_use(self) -> set[int]:
        return os.sched_getaffinity(self.id)

    def wake(self) -> None:
        self._wake.set()
        self.thread.join(30)


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    sleeper = Sleeper()
    yield sleeper
    sleeper.wake()


def test_inside_each_has_its_half_and_after_it_the_caller_has_all(sleeper):
    with apart_from(sleeper.id):
        own = os.sched_getaffinity(0)
        assert own and sleeper.may_use and not own & sleeper.may_use
        assert own | sleeper.may_use == ALL
        assert abs(len(own) - len(sleeper.may_use)) <= 1
    assert os.sched_getaffinity(0) == ALL


def test_whatever_is_raised_inside_the_caller_has_all_again(sleeper):
    with pytest.raises(ZeroDivisionError), apart_from(sleeper.id):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == ALL


def test_the_other_stays_there_until_it_goes_anywhere(sleeper):
    seen = []
    sleeper.woken = lambda: (seen.append(os.sched_getaffinity(0)), go_anywhere(), seen.append(os.sched_getaffinity(0)))
    with apart_from(sleeper.id):
        half = sleeper.may_use
    assert half < ALL and sleeper.may_use == half
    sleeper.wake()
    assert seen == [half, ALL]


def test_a_thread_that_has_ended_and_one_that_has_not_begun_are_no_trouble(sleeper):
    sleeper.wake()
    for thread_id in (sleeper.id, threading.Thread().native_id):
        with apart_from(thread_id):
            pass
    assert os.sched_getaffinity(0) == ALL


def test_who_may_use_one_processor_only_stays_there_and_binds_nobody(sleeper):
    one = {min(ALL)}

    def bound() -> None:
        os.sched_setaffinity(0, one)
        with apart_from(sleeper.id):
            seen.append((os.sched_getaffinity(0), sleeper.may_use))
        seen.append((os.sched_getaffinity(0), sleeper.may_use))

    seen: list[tuple[set[int], set[int]]] = []
    caller = threading.Thread(target=bound)
    caller.start()
    caller.join(30)
    assert seen == [(one, ALL), (one, ALL)]
