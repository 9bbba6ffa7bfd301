"""Spaces to move into, and a person with a memory of every kind."""

from __future__ import annotations

import pytest

from memory.embedding import process, spaces
from tests.moving.memories import remember_all, remember_some
from tests.people import Person


@pytest.fixture
def another_edition(transactional_db) -> int:
    """The default space once more: whoever is moved there gets another search key."""
    number, is_default = spaces.register_space(process.get_embedder(), another=True)
    assert not is_default
    return number


@pytest.fixture
def scribe(transactional_db) -> Person:
    """A person with threads, speakers, a summary and an answered Idempotency-Key."""
    person = Person.new("scribe")
    remember_some(person)
    return person


@pytest.fixture
def keeper(transactional_db) -> Person:
    """The same with entities."""
    person = Person.new("keeper")
    remember_all(person)
    return person
