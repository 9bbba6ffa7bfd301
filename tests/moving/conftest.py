"""Spaces to move into, and a person with a memory of every kind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.conf import settings

from memory.embedding import process, spaces
from tests.moving.memories import remember_all
from tests.people import Person
from tests.tiny_models import build_sentence_model


@pytest.fixture
def another_edition(transactional_db) -> int:
    """The default space once more: whoever is moved there gets another search key."""
    number, is_default = spaces.register_space(process.get_embedder(), another=True)
    assert not is_default
    return number


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    return str(build_sentence_model(tmp_path_factory.mktemp("next")))


@pytest.fixture
def next_space(tiny_model, monkeypatch, transactional_db) -> Iterator[int]:
    """The space of another model of another dimension, which this process holds beside the first."""
    first = process.get_embedder()
    monkeypatch.setattr(settings, "MEMORY_NEXT_EMBEDDING_MODEL", tiny_model)
    process.forget_embedders()
    _, second = process.configured_embedders()
    # The first is dear to load: the process keeps the one it has.
    monkeypatch.setattr(process, "_embedders", (process._embedders[0], (first, second)))
    second.load()
    number, _ = spaces.register_space(second)
    yield number
    second.close()
    monkeypatch.undo()
    monkeypatch.setattr(process, "_embedders", (process.os.getpid(), (first,)))
    spaces.forget_spaces()


@pytest.fixture
def keeper(transactional_db) -> Person:
    """A person with threads, speakers, a summary, entities and an answered Idempotency-Key."""
    person = Person.new("keeper")
    remember_all(person)
    return person
