"""Users take turns at the interpreter: few at once, the one with the fewest first, and nobody past his deadline."""

import threading
import time

import pytest

from memory.admission import deadline
from memory.admission.turns import Turns
from memory.errors import Overloaded

PATIENCE_SECONDS = 30


def wait_until(condition):
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.001)


class Crowd:
    """Callers who come one after the other to turns that are all taken, and the order in which they are called."""

    def __init__(self, turns: Turns):
        self.turns = turns
        self.called: list[str] = []
        self._threads: list[threading.Thread] = []

    def come(self, user: str) -> None:
        thread = threading.Thread(target=self._ask, args=(user,))
        self._threads.append(thread)
        before = self._waiting()
        thread.start()
        wait_until(lambda: self._waiting() > before)

    def leave(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def _waiting(self) -> int:
        return sum(map(len, self.turns._waiting.values()))

    def _ask(self, user: str) -> None:
        with self.turns.taking(user):
            self.called.append(user)


def test_whoever_comes_forty_times_has_one_turn_in_each_round():
    crowd = Crowd(Turns(1))
    with crowd.turns.taking("first"):
        for user in ("greedy", "greedy", "greedy", "anna", "ben", "ben"):
            crowd.come(user)
    crowd.leave()
    assert crowd.called == ["greedy", "anna", "ben", "greedy", "ben", "greedy"]


def test_who_has_nothing_running_goes_before_who_has():
    crowd = Crowd(Turns(4))
    taking = crowd.turns.taking
    with taking("greedy"), taking("ben"), taking("ben"):
        with taking("other"):
            for user in ("greedy", "anna"):
                crowd.come(user)
        crowd.leave()
    assert crowd.called == ["anna", "greedy"]


def test_one_user_has_half_of_the_turns_at_most_and_the_others_find_theirs_free():
    crowd = Crowd(Turns(4))
    taking = crowd.turns.taking
    with taking("greedy"):
        with taking("greedy"):
            crowd.come("greedy")
            with taking("anna"), taking("ben"):
                pass
            assert crowd.called == []
        crowd.leave()
    assert crowd.called == ["greedy"]


def test_a_turn_comes_back_from_a_block_that_fails_and_nothing_is_kept_of_its_user():
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError), turns.taking("anna"):
        raise ZeroDivisionError
    with turns.taking("ben"):
        pass
    assert not turns._running
    assert not turns._waiting


def test_who_is_not_called_before_his_deadline_is_told_overloaded_and_leaves_the_queue():
    turns = Turns(1)
    with turns.taking("anna"):
        with deadline.counting_from(time.monotonic()), pytest.raises(Overloaded):
            deadline.allow(0.01)
            with turns.taking("ben"):
                pytest.fail("There was no turn to have.")
        assert not turns._waiting
    with turns.taking("ben"):
        pass
