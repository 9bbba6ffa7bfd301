"""Turns by user: who has one query goes before who has several, nobody waits for ever, and no turn is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from memory.admission import deadline
from memory.admission.turns import LONGEST_WAITING_ONE_IN, Turns
from memory.errors import Overloaded

PATIENCE_SECONDS = 30


class Callers:
    """People who wait for the one turn there is, while it is held; `served` is the order in which they had it."""

    def __init__(self):
        self.turns = Turns(1)
        self.served: list[str] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Callers:
        self._held = ExitStack()
        self._held.enter_context(self.turns.taking("holder"))
        return self

    def come(self, *users: str) -> None:
        for user in users:
            thread = threading.Thread(target=self._take, args=(user,))
            thread.start()
            self._threads.append(thread)
            wait_until(lambda: waiting(self.turns) == len(self._threads))

    def __exit__(self, *exc_info) -> None:
        self._held.close()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _take(self, user: str) -> None:
        with self.turns.taking(user):
            self.served.append(user)


def waiting(turns: Turns) -> int:
    return sum(map(len, turns._waiting.values()))


def wait_until(condition) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_who_has_one_query_goes_before_who_has_several_and_else_it_is_first_come_first_served():
    with Callers() as callers:
        callers.come("greedy", "greedy", "greedy", "anna", "ben", "cleo")
    assert callers.served == ["anna", "ben", "cleo", "greedy", "greedy", "greedy"]


def test_one_turn_in_some_is_the_longest_waiting_users_however_many_go_before_him():
    with Callers() as callers:
        callers.come("greedy", "greedy", *map(str, range(2 * LONGEST_WAITING_ONE_IN)))
    assert callers.served.index("greedy") == LONGEST_WAITING_ONE_IN - 1


def test_no_more_run_at_once_than_may_and_half_of_them_are_one_users_at_most():
    turns, running, most, lock = Turns(4), Counter(), Counter(), threading.Lock()

    def work(user: str) -> None:
        with turns.taking(user):
            with lock:
                running[user] += 1
                most[user] = max(most[user], running[user])
                most["all"] = max(most["all"], sum(running.values()))
            time.sleep(0.002)
            with lock:
                running[user] -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, ["greedy"] * 60 + ["anna", "ben"] * 10))
    assert most["greedy"] <= 2 and most["all"] <= 4
    assert waiting(turns) == 0 and not turns._running


def test_past_the_requests_deadline_it_is_overloaded_and_the_turn_goes_to_the_next():
    with Callers() as callers:
        with deadline.counting_from(time.monotonic()):
            deadline.allow(0.05)
            with pytest.raises(Overloaded), callers.turns.taking("late"):
                pass
        callers.come("anna")
    assert callers.served == ["anna"]
    assert waiting(callers.turns) == 0 and not callers.turns._running


def test_a_query_that_fails_gives_its_turn_back():
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(ValueError), turns.taking("anna"):
            raise ValueError
    assert not turns._running
