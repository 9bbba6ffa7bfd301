import math
import time

import pytest

from memory.admission import deadline
from memory.errors import Overloaded


def test_outside_a_request_there_is_no_deadline():
    deadline.allow(0)
    assert deadline.deadline_at() == deadline.remaining_seconds() == math.inf
    deadline.require_time()


def test_time_counts_from_the_beginning_of_the_request():
    began = time.monotonic() - 3
    with deadline.counting_from(began):
        assert deadline.deadline_at() == math.inf
        deadline.allow(10)
        assert deadline.deadline_at() == began + 10
        assert 6 < deadline.remaining_seconds() <= 7
        assert deadline.remaining_seconds(1.5) == 1.5
    assert deadline.deadline_at() == math.inf


def test_an_earlier_deadline_stands():
    with deadline.counting_from(time.monotonic()):
        deadline.allow(1)
        deadline.allow(60)
        assert deadline.remaining_seconds() <= 1


def test_past_it_nothing_waits_and_long_work_stops():
    with deadline.counting_from(time.monotonic() - 2):
        deadline.allow(1)
        assert deadline.remaining_seconds() == 0
        with pytest.raises(Overloaded):
            deadline.require_time()


def test_a_request_within_another_ends_with_the_outer_deadline_restored():
    with deadline.counting_from(time.monotonic()):
        deadline.allow(5)
        outer = deadline.deadline_at()
        with deadline.counting_from(time.monotonic()):
            assert deadline.deadline_at() == math.inf
        assert deadline.deadline_at() == outer


def test_time_that_has_a_limit_of_its_own_is_not_the_requests():
    with deadline.counting_from(time.monotonic()):
        deadline.allow(5)
        before = deadline.deadline_at()
        with deadline.paused():
            time.sleep(0.01)
        assert before + 0.01 <= deadline.deadline_at()
    assert deadline.deadline_at() == math.inf
