"""Of the words' hits the best that the filters let through: the same, however few of them are looked up."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from django.db import connection

from memory.retrieval import passing
from memory.retrieval.filters import Filters
from tests.db import lexicon
from tests.db.lexicon import WEIGHTS, WORDS, search, store
from tests.db.memories import flush_terms, unit_vector
from tests.db.scratch import scratch_database
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = 4
QUESTION = "word0 word1 word7"
# How many of the 300 chunks each source has.
SOURCES = {"diary": 200, "talk": 80, "post": 18, "slip": 2}


@pytest.fixture(scope="module")
def scratch(django_db_setup, django_db_blocker) -> Iterator[None]:
    """A database of its own: others' tests judge plans by what stands in theirs."""
    with django_db_blocker.unblock(), scratch_database("passing") as scratch:
        scratch.migrate()
        with scratch.as_alias("default", "maint", "owner"):
            yield


@pytest.fixture(scope="module")
def alice(scratch) -> Person:
    """300 chunks, in two segments and the memtable; the sources take turns, and some texts are the same."""
    alice, chance = Person.new("alice"), random.Random(5)
    texts = [" ".join(chance.choices(WORDS, WEIGHTS, k=chance.randint(6, 20))) for _ in range(300)]
    texts[40:60] = texts[:20]
    sources = chance.sample(list(SOURCES), 300, counts=list(SOURCES.values()))
    for at in range(0, 300, 100):
        for source in SOURCES:
            of_source = [text for text, its in zip(texts[at:], sources[at : at + 100], strict=False) if its == source]
            store(alice, f"{source}-{at}", of_source or ["nothing"], source=source)
        if at < 200:
            flush_terms(alice, chunks=100)
    return alice


@pytest.fixture(autouse=True)
def what_is_near_is_the_same_each_time(scratch, monkeypatch):
    vector = unit_vector()
    monkeypatch.setattr(lexicon, "unit_vector", lambda: vector)


def asked(person: Person, filters: Filters) -> tuple[list, int]:
    """(the candidates, in how many statements hits were looked up)"""
    statements: list[str] = []

    def noting(execute, sql, *others):
        statements.append(sql)
        return execute(sql, *others)

    with connection.execute_wrapper(noting):
        found = search(person, QUESTION, LIMIT, filters)
    return found, sum(any(part in sql for part in ("ORDER BY h.bm25", "coalesce(segment, -1)")) for sql in statements)


@pytest.mark.parametrize("looked_up", [1, 2, 8])
@pytest.mark.parametrize("sources", [("diary",), ("talk",), ("post",), ("slip",), ("post", "slip"), ("nowhere",)])
def test_the_best_that_pass_are_the_same_however_few_are_looked_up(alice, monkeypatch, sources, looked_up):
    filters = Filters(sources=sources)
    monkeypatch.setattr(passing, "LOOKED_UP", 1_000)
    every, statements = asked(alice, filters)
    assert statements == 0
    monkeypatch.setattr(passing, "LOOKED_UP", looked_up)
    found, statements = asked(alice, filters)
    assert statements in (1, 2)
    assert found == every
    assert {candidate.source for candidate in found} <= set(sources)


def test_where_enough_of_the_first_pass_the_others_are_not_looked_at(alice, monkeypatch):
    monkeypatch.setattr(passing, "LOOKED_UP", 8)
    assert asked(alice, Filters(sources=("diary",)))[1] == 1
    assert asked(alice, Filters(sources=("slip",)))[1] == 2


def test_of_equal_scores_at_the_brink_none_is_left_out_before_they_are_in_order(monkeypatch):
    bob = Person.new("bob")
    for doc_id in ("m", "z", "a", "k", "c", "b"):
        store(bob, doc_id, ["word0 word1"], source="diary" if doc_id in "zkb" else "post")
    monkeypatch.setattr(passing, "LOOKED_UP", 1)
    best = [found for found in search(bob, QUESTION, 1, Filters(sources=("diary",))) if found.bm25]
    # The nearest is anybody's.
    assert "b" in {found.doc_id for found in best}
