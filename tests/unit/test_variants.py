"""A user keeps his variant, and a change of percent moves only those whom it must."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.rollout.variants import NEWER, STABLE, one_variant, variant_in_use, variant_of

PERCENTS = st.integers(0, 100)
USERS = [sha256(f"user {number}".encode()).hexdigest() for number in range(2_000)]


@pytest.fixture(autouse=True)
def _no_rows(monkeypatch):
    monkeypatch.setattr("memory.rollout.flags._rows", {})


def variants(settings, percent: int, users=USERS) -> list[str]:
    settings.MEMORY_CANARY_PCT = percent
    return [variant_of(user) for user in users]


def test_nobody_and_everybody(settings):
    assert set(variants(settings, 0)) == {STABLE}
    assert set(variants(settings, 100)) == {NEWER}


@pytest.mark.parametrize("percent", [1, 5, 50, 95])
def test_as_many_are_moved_as_the_percent_says(settings, percent):
    newer = variants(settings, percent).count(NEWER) / len(USERS) * 100
    # Four standard deviations of 2,000 draws.
    assert abs(newer - percent) < 4 * (percent * (100 - percent) / len(USERS)) ** 0.5


@given(PERCENTS, PERCENTS)
def test_more_percent_moves_some_to_the_newer_one_and_nobody_back(one, other):
    from django.conf import settings

    before = settings.MEMORY_CANARY_PCT
    try:
        fewer, more = (variants(settings, percent, USERS[:200]) for percent in sorted((one, other)))
    finally:
        settings.MEMORY_CANARY_PCT = before
    assert all(was == STABLE or now == NEWER for was, now in zip(fewer, more, strict=True))


def test_a_share_of_the_users_says_nothing_about_their_partitions(settings):
    newer = [user for user in USERS if variant_of(user) == NEWER] if variants(settings, 50) else []
    firsts = {user[0] for user in newer}
    assert len(firsts) == 16


def test_within_a_request_the_variant_stays(settings):
    with one_variant():
        settings.MEMORY_CANARY_PCT = 100
        assert variant_in_use(USERS[0]) == NEWER
        settings.MEMORY_CANARY_PCT = 0
        assert variant_in_use(USERS[0]) == NEWER
    assert variant_in_use(USERS[0]) == STABLE
