"""Where two threads may run, by the masks that the kernel keeps; real threads, and no look at what they gain."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from memory.embedding import cores
from memory.embedding.cores import apart_from
from tests.processors import EVERYWHERE, on_two_processors


class Sleeper:
    """A thread that sleeps until it is let go."""

    def __init__(self):
        self._let_go = threading.Event()
        self._thread = threading.Thread(target=lambda: self._let_go.wait(30))
        self._thread.start()
        self.id = self._thread.native_id

    @property
    def may_use(self) -> set[int]:
        return os.sched_getaffinity(self.id)

    def end(self) -> None:
        self._let_go.set()
        self._thread.join(30)


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    sleeper = Sleeper()
    yield sleeper
    sleeper.end()


@on_two_processors
def test_inside_each_has_its_half_and_after_it_both_have_all(sleeper):
    with apart_from(sleeper.id):
        own = os.sched_getaffinity(0)
        assert own and sleeper.may_use and not own & sleeper.may_use
        assert own | sleeper.may_use == EVERYWHERE
        assert cores._current_cpu() in own
    assert os.sched_getaffinity(0) == sleeper.may_use == EVERYWHERE


@on_two_processors
def test_whatever_is_raised_inside_both_have_all_again(sleeper):
    with pytest.raises(ZeroDivisionError), apart_from(sleeper.id):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == sleeper.may_use == EVERYWHERE


@on_two_processors
def test_a_thread_that_has_ended_is_no_trouble_and_nobody_binds_no_caller(sleeper):
    sleeper.end()
    with apart_from(sleeper.id):
        pass
    with apart_from(None):
        assert os.sched_getaffinity(0) == EVERYWHERE
    assert os.sched_getaffinity(0) == EVERYWHERE


@on_two_processors
def test_who_may_use_one_processor_only_stays_there_and_binds_nobody(sleeper):
    one = {min(EVERYWHERE)}

    def bound() -> None:
        os.sched_setaffinity(0, one)
        with apart_from(sleeper.id):
            seen.append((os.sched_getaffinity(0), sleeper.may_use))
        seen.append((os.sched_getaffinity(0), sleeper.may_use))

    seen: list[tuple[set[int], set[int]]] = []
    caller = threading.Thread(target=bound)
    caller.start()
    caller.join(30)
    assert seen == [(one, EVERYWHERE), (one, EVERYWHERE)]


@on_two_processors
def test_what_somebody_chose_for_the_process_stands(sleeper):
    """In a process that was bound to some of the processors, as by taskset, a thread is given those back."""
    seen: list[object] = []

    def chosen() -> None:
        os.sched_setaffinity(0, {min(EVERYWHERE)})
        seen.extend((set(cores._anywhere()), os.sched_getaffinity(0)))

    caller = threading.Thread(target=chosen)
    caller.start()
    caller.join(30)
    assert seen == [{min(EVERYWHERE)}, {min(EVERYWHERE)}]
    assert set(cores._anywhere()) >= EVERYWHERE and os.sched_getaffinity(0) == EVERYWHERE


@pytest.mark.parametrize(
    ("allowed", "current", "own", "other"),
    [
        ({0}, 0, [], []),
        ({0, 1}, 0, [0], [1]),
        ({0, 1}, 1, [1], [0]),
        ({0, 1, 2}, 1, [1], [0, 2]),
        ({2, 5, 7, 11}, 7, [2, 7], [5, 11]),
        # Moved since it was asked, and not known.
        ({2, 5}, 3, [2], [5]),
        ({2, 5}, -1, [2], [5]),
        (set(range(64)), 9, list(range(1, 64, 2)), list(range(0, 64, 2))),
    ],
)
def test_the_half_that_the_caller_runs_on_is_its_own(monkeypatch, allowed, current, own, other):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda thread: allowed, raising=False)
    monkeypatch.setattr(cores, "_current_cpu", lambda: current)
    assert cores._halves() == (own, other)


def test_where_the_system_does_not_say_nothing_is_bound(monkeypatch, sleeper):
    monkeypatch.setattr(cores, "_current_cpu", None)
    with apart_from(sleeper.id):
        assert cores._halves() == ([], [])
    assert not cores._anywhere()
