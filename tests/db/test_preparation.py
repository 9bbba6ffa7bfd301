"""The mark by which a start sees that nothing is to be migrated: it fits this code and these rows, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from r1site.embedded import preparation
from tests.db.server import connect


@pytest.fixture
def owner(django_db_setup) -> Iterator[psycopg.Connection]:
    """r1_owner's connection, whose changes are rolled back."""
    with connect("r1_owner") as connection, connection.transaction(force_rollback=True):
        yield connection


def test_a_database_is_prepared_once_it_is_noted_and_not_before(owner):
    owner.execute("COMMENT ON TABLE django_migrations IS NULL")
    assert not preparation.is_prepared(owner)
    preparation.note_prepared(owner)
    assert preparation.is_prepared(owner)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM django_migrations WHERE app = 'memory' AND name LIKE '0024%'",
        "DELETE FROM django_migrations WHERE app = 'axes'",
        "INSERT INTO django_migrations (app, name, applied) VALUES ('memory', '9999_of_tomorrow', now())",
        "UPDATE memory_spaces SET is_default = false",
    ],
)
def test_it_is_not_prepared_any_more_after(owner, change):
    preparation.note_prepared(owner)
    assert owner.execute(change).rowcount
    assert not preparation.is_prepared(owner)


def test_other_code_is_not_what_prepared_it(owner, tmp_path, monkeypatch):
    preparation.note_prepared(owner)
    (tmp_path / "0001_other.py").write_text("# another migration")
    monkeypatch.setattr(preparation, "MIGRATIONS", tmp_path)
    assert not preparation.is_prepared(owner)


def test_an_empty_database_is_not_prepared(owner):
    owner.execute("DROP TABLE django_migrations CASCADE")
    assert not preparation.is_prepared(owner)
