"""Two users with rows in every tenant table, and plain connections as each role."""

from __future__ import annotations

import psycopg
import pytest

from memory.isolation.audit import TENANT_TABLES
from tests.db.memories import flush_terms, remember, remember_requests, remember_summary
from tests.db.server import connect, digest, row_versions
from tests.people import Person


@pytest.fixture(scope="module")
def database(django_db_setup, django_db_blocker):
    """The migrated database for modules whose rows outlive one test; transactions are real, nothing is rolled back."""
    with django_db_blocker.unblock():
        yield


@pytest.fixture(scope="module")
def keeper(database) -> Person:
    """A user with three documents: the one who acts."""
    person = Person.new("keeper")
    remember(person, "a", "b")
    remember_summary(person, "c", "a", "b")
    flush_terms(person, chunks=2)
    remember_requests(person)
    return person


@pytest.fixture(scope="module")
def victim(database) -> Person:
    """Another user with three documents: the one whose rows nobody else may reach."""
    person = Person.new("victim")
    remember(person, "a", "b")
    flush_terms(person, chunks=1)
    remember_summary(person, "c", "a", "b")
    remember_requests(person)
    return person


@pytest.fixture(scope="module")
def backup(database) -> psycopg.Connection:
    """r1_backup: sees every row, so it says what really is there."""
    with connect("r1_backup") as connection:
        yield connection


@pytest.fixture
def app(database) -> psycopg.Connection:
    """r1_app on a connection nobody has used before."""
    with connect("r1_app") as connection:
        yield connection


@pytest.fixture(scope="module")
def contents_stay_as_they_are(keeper, victim, backup):
    """Both users have rows in every tenant table, and the very same ones after the last test of the module."""
    before = {(t, p): digest(backup, t, p.user_hash) for t in TENANT_TABLES for p in (keeper, victim)}
    assert all(count > 0 for count, _ in before.values()), before
    yield
    assert {(t, p): digest(backup, t, p.user_hash) for t, p in before} == before


@pytest.fixture
def rows_stay_as_they_are(contents_stay_as_they_are, keeper, victim, backup):
    """No test leaves behind a row added, written or deleted, were it written back just as it was.

    PostgreSQL makes a new version of a row that is written, so this needs no look at what the rows hold.
    """
    before = row_versions(backup, keeper.user_hash, victim.user_hash)
    assert {table for table, *_ in before} == set(TENANT_TABLES)
    yield
    assert row_versions(backup, keeper.user_hash, victim.user_hash) == before
