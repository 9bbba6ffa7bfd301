"""A token bucket in SQL: how many requests it lets through, to the request.

Time passes by moving the bucket's own moment back. A token takes an hour to refill and an eighth of one is to spare
at every count, so that the seconds the test itself takes change nothing.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest

from memory.rates import QUERY, take_token
from memory.rls import tenant_transaction
from tests.people import Person

pytestmark = pytest.mark.usefixtures("database")

HOUR = 3600.0


@dataclass(frozen=True)
class Hourly:
    """A token an hour, and at most `limit` of them."""

    limit: int
    per_second: float = 1 / HOUR


def is_admitted(person: Person, rate: Hourly) -> bool:
    with tenant_transaction(person.user_hash, write=True, reads_state=False) as tx:
        return take_token(tx, QUERY, rate) is None


def wait(person: Person, seconds: float) -> None:
    with tenant_transaction(person.user_hash, write=True, reads_state=False) as tx:
        moved = tx.execute(
            "UPDATE memory_rate_buckets SET updated_at = updated_at - make_interval(secs => %s)"
            " WHERE user_hash = %s AND bucket = %s",
            [seconds, tx.user_hash, QUERY],
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
