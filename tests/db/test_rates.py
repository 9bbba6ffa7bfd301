"""A token bucket in SQL: how many requests it lets through, to the request.

Time passes by moving the bucket's own moment back. A token takes an hour to refill and an eighth of one is to spare
at every count, so that the seconds the test itself takes change nothing.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from memory.admission.rates import CHUNKS, QUERY, take_tokens
from memory.limits import CHUNKS_PER_CALL_MAX
from memory.rls import tenant_transaction
from tests.people import Person

pytestmark = pytest.mark.usefixtures("database")

HOUR = 3600.0


@dataclass(frozen=True)
class Hourly:
    """A token an hour, and at most `limit` of them."""

    limit: int
    per_second: float = 1 / HOUR

    @property
    def period_seconds(self) -> float:
        return self.limit / self.per_second


def wait_seconds(person: Person, rate: Hourly, cost: int = 1, bucket: str = QUERY) -> int | None:
    with tenant_transaction(person.user_hash, write=True, reads_state=False) as tx:
        return take_tokens(tx, bucket, rate, cost)


def is_admitted(person: Person, rate: Hourly) -> bool:
    return wait_seconds(person, rate) is None


def wait(person: Person, seconds: float, bucket: str = QUERY) -> None:
    with tenant_transaction(person.user_hash, write=True, reads_state=False) as tx:
        moved = tx.execute(
            "UPDATE memory_rate_buckets SET updated_at = updated_at - make_interval(secs => %s)"
            " WHERE user_hash = %s AND bucket = %s",
            [seconds, tx.user_hash, bucket],
        )
        tx.sync()
        assert moved.rowcount == 1


@pytest.mark.parametrize("limit", [1, 7, 60])
def test_a_fresh_bucket_and_one_left_alone_for_long_let_exactly_their_limit_through(database, limit):
    person, rate = Person.new("rate"), Hourly(limit)
    for _ in range(2):
        assert [is_admitted(person, rate) for _ in range(limit + 10)] == [True] * limit + [False] * 10
        wait(person, 1000 * limit * HOUR)


@pytest.mark.parametrize("seed", range(5))
def test_tries_spread_over_time_are_let_through_to_the_floor_of_what_has_refilled(database, seed):
    """The bucket is never full, so nothing is forfeited; after every try less than a token is left."""
    draw = random.Random(seed)
    person, rate, elapsed, admitted = Person.new("rate"), Hourly(limit=10), 0.0, 0  # elapsed: hours
    for _ in range(rate.limit):
        admitted += is_admitted(person, rate)
    assert admitted == rate.limit
    for step in [0.125] + [draw.randrange(5) / 4 for _ in range(80)]:
        wait(person, step * HOUR)
        elapsed += step
        admitted += is_admitted(person, rate)
        assert admitted == math.floor(rate.limit + elapsed)
    assert admitted > 2 * rate.limit


def test_a_bucket_of_another_user_or_name_is_another(database):
    one, other, rate = Person.new("rate"), Person.new("rate"), Hourly(limit=1)
    assert [is_admitted(person, rate) for person in (one, one, other, other)] == [True, False, True, False]


@pytest.mark.parametrize("limit", [1, 100, 300])
@pytest.mark.parametrize("seed", range(3))
def test_costs_of_any_size_take_no_more_than_the_bucket_holds_and_what_has_refilled(database, seed, limit):
    """Over every span of time, and whoever waits as long as he is told is let through: nobody is locked out."""
    draw = random.Random(seed)
    person, rate = Person.new("rate"), Hourly(limit)
    size = max(limit, CHUNKS_PER_CALL_MAX)
    elapsed, taken = 0.0, []  # hours; (when, how many)
    for _ in range(60):
        cost = draw.choice([1, 2, draw.randint(1, CHUNKS_PER_CALL_MAX), CHUNKS_PER_CALL_MAX])
        told = wait_seconds(person, rate, cost, CHUNKS)
        if told is not None:
            # An eighth of an hour earlier there is not enough yet.
            if draw.random() < 0.5:
                early = max(0.0, told - 0.125 * HOUR)
                wait(person, early, CHUNKS)
                elapsed += early / HOUR
                assert wait_seconds(person, rate, cost, CHUNKS) is not None
                told -= early
            wait(person, told, CHUNKS)
            elapsed += told / HOUR
            assert wait_seconds(person, rate, cost, CHUNKS) is None
        taken.append((elapsed, cost))
        step = draw.choice([0, 0, 0.5, draw.uniform(0, 2 * size)])
        wait(person, step * HOUR, CHUNKS)
        elapsed += step
    for first, (begin, _) in enumerate(taken):
        total = 0
        for end, cost in taken[first:]:
            total += cost
            assert total <= size + (end - begin) + 0.01  # the test's own seconds refill too
    assert sum(cost for _, cost in taken) > 4 * size


def test_a_refused_cost_takes_nothing_so_a_smaller_one_still_passes(database):
    person, rate = Person.new("rate"), Hourly(limit=10)
    assert [wait_seconds(person, rate, cost, CHUNKS) for cost in (199, 2, 1)] == [None, math.ceil(HOUR), None]


@pytest.mark.parametrize(("bucket", "cost"), [(QUERY, 11), (CHUNKS, CHUNKS_PER_CALL_MAX + 1), (CHUNKS, 0), (QUERY, -1)])
def test_a_cost_that_no_bucket_could_ever_pay_is_an_error_and_takes_nothing(database, bucket, cost):
    person, rate = Person.new("rate"), Hourly(limit=10)
    with pytest.raises(ValueError, match="1 to"):
        wait_seconds(person, rate, cost, bucket)
    assert wait_seconds(person, rate, 10, bucket) is None
