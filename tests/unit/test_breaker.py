"""The breaker opens on slowness, asks with one probe at a time, and closes on a good one."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reranker.breaker import FIRST_OPEN_SECONDS, LONGEST_OPEN_SECONDS, WINDOW_CALLS, Breaker


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock) -> Breaker:
    breaker = Breaker(clock)
    assert not breaker.record(slow=True)
    assert breaker.record(slow=True)
    return breaker


def test_two_slow_calls_in_a_row_open_it_and_one_between_good_ones_does_not():
    breaker = Breaker(Clock())
    for slow in (True, False, True, False, True, False):
        assert not breaker.record(slow)
    assert breaker.state == "closed"
    breaker.record(True)
    assert breaker.record(True) and breaker.state == "open"


def test_half_of_the_last_twenty_open_it_though_no_two_stand_together():
    breaker = Breaker(Clock())
    outcomes = [n % 2 == 0 for n in range(WINDOW_CALLS)]
    opened_by = [breaker.record(slow) for slow in outcomes]
    assert opened_by.index(True) == 18  # the tenth slow one
    assert breaker.state == "open"


def test_slow_calls_that_left_the_window_no_longer_count():
    breaker = Breaker(Clock())
    for _ in range(50):
        for slow in (True, False, False):
            assert not breaker.record(slow)


def test_calls_that_end_after_it_opened_do_not_count():
    clock = Clock()
    breaker = opened(clock)
    assert not breaker.record(slow=False) and not breaker.record(slow=True)
    assert breaker.seconds_until_probe() == FIRST_OPEN_SECONDS


def test_a_good_probe_closes_it_and_forgets_the_past():
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_OPEN_SECONDS
    assert breaker.begin_probe()
    breaker.end_probe(good=True)
    assert breaker.state == "closed" and breaker.seconds_until_probe() is None
    assert not breaker.record(slow=True)
    breaker.record(slow=True)
    assert breaker.seconds_until_probe() == FIRST_OPEN_SECONDS


def test_each_bad_probe_doubles_the_time_up_to_thirty_seconds():
    clock = Clock()
    breaker = opened(clock)
    waits = []
    for _ in range(9):
        waits.append(breaker.seconds_until_probe())
        clock.now += waits[-1]
        assert breaker.begin_probe()
        breaker.end_probe(good=False)
    assert waits == [0.5, 1, 2, 4, 8, 16, LONGEST_OPEN_SECONDS, LONGEST_OPEN_SECONDS, LONGEST_OPEN_SECONDS]


def test_a_slow_probe_does_not_put_off_the_next_one_but_leaves_a_pause():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 0.5
    assert breaker.begin_probe()
    clock.now += 0.4
    breaker.end_probe(good=False)
    assert round(breaker.seconds_until_probe(), 6) == 0.6
    clock.now += 0.6
    assert breaker.begin_probe()
    clock.now += 60
    breaker.end_probe(good=False)
    assert breaker.seconds_until_probe() == FIRST_OPEN_SECONDS


def test_tripping_opens_it_only_when_closed():
    clock = Clock()
    breaker = Breaker(clock)
    assert breaker.trip() and not breaker.trip()
    clock.now += 1
    assert breaker.begin_probe()
    assert not breaker.trip() and breaker.state == "half_open"


def test_of_many_threads_one_gets_to_probe():
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_OPEN_SECONDS
    start, won = threading.Barrier(16), []

    def ask():
        start.wait(30)
        won.append(breaker.begin_probe())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(won) == 1 and len(won) == 16


SLOWDOWN_SECONDS = 3.0


@settings(deadline=None)
@given(opens_at=st.floats(0.25, 1.25), probe_seconds=st.floats(0.25, 0.4))
def test_opened_early_in_a_slowdown_of_three_seconds_it_is_closed_within_two_after(opens_at, probe_seconds):
    """At a few calls a second it opens early: two of them time out after 250 ms."""
    clock = Clock()
    clock.now = opens_at
    breaker = opened(clock)
    while breaker.state != "closed":
        clock.now += breaker.seconds_until_probe()
        slow = clock.now < SLOWDOWN_SECONDS
        assert breaker.begin_probe()
        clock.now += probe_seconds if slow else 0.02
        breaker.end_probe(good=not slow)
    assert clock.now <= SLOWDOWN_SECONDS + 2.0


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order: states follow one another as they must."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.seen = ["closed"]
        self.breaker = Breaker(self.clock, on_change=self.seen.append)
        self.probing = False

    @rule(slow=st.booleans())
    def call_ends(self, slow):
        before = self.breaker.state
        opened_now = self.breaker.record(slow)
        assert opened_now == (before == "closed" and self.breaker.state == "open")
        assert slow or not opened_now or before != "closed"

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @rule()
    def trip(self):
        self.breaker.trip()

    @rule()
    def ask_to_probe(self):
        due = self.breaker.seconds_until_probe() == 0
        assert self.breaker.begin_probe() == due
        self.probing = self.probing or due

    @precondition(lambda self: self.probing)
    @rule(good=st.booleans())
    def probe_ends(self, good):
        self.breaker.end_probe(good)
        self.probing = False
        assert self.breaker.state == ("closed" if good else "open")

    @invariant()
    def half_open_means_a_probe_is_under_way(self):
        assert (self.breaker.state == "half_open") == self.probing

    @invariant()
    def a_probe_is_never_further_off_than_thirty_seconds(self):
        seconds = self.breaker.seconds_until_probe()
        assert (seconds is None) == (self.breaker.state != "open")
        assert seconds is None or 0 <= seconds <= LONGEST_OPEN_SECONDS

    @invariant()
    def it_closes_only_by_way_of_a_probe(self):
        followers = set(zip(self.seen, self.seen[1:], strict=False))
        assert followers <= {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}


TestAnyHistory = AnyHistory.TestCase


def test_a_probe_that_showed_nothing_leaves_the_next_one_due_and_doubles_nothing():
    clock = Clock()
    breaker = opened(clock)
    clock.now += FIRST_OPEN_SECONDS
    for _ in range(5):
        assert breaker.begin_probe()
        breaker.abandon_probe()
        assert breaker.state == "open" and breaker.seconds_until_probe() == 0
    assert breaker.begin_probe()
    breaker.end_probe(good=False)
    assert breaker.seconds_until_probe() == 2 * FIRST_OPEN_SECONDS
