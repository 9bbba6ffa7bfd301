"""What a destroyed data key leaves behind on the disk: nothing in its table's file, nothing in the statistics."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg
import pytest
from django.core.management import call_command

from memory.erasure import key_remains
from r1site.embedded.data_folder import SUPERUSER
from tests.db.memories import remember
from tests.db.server import connect
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint", "owner"])

LIMIT_SECONDS = 60


@pytest.fixture
def people(transactional_db) -> list[Person]:
    people = [Person.new("user") for _ in range(5)]
    for person in people:
        remember(person, "a")
    return people


def sealed_key(superuser, person: Person) -> bytes:
    row = superuser.execute("SELECT sealed_key FROM memory_data_keys WHERE user_hash = %s", [person.user_hash])
    return bytes(row.fetchone()[0])


def in_the_file(superuser, key: bytes) -> bool:
    """Whether the key table's file on the disk holds these bytes."""
    superuser.execute("CHECKPOINT")
    folder, path = superuser.execute(
        "SELECT current_setting('data_directory'), pg_relation_filepath('memory_data_keys')"
    ).fetchone()
    return key in (Path(folder) / path).read_bytes()


def erase(person: Person) -> None:
    assert person.post("memory/erase", {"confirm": person.user_id}).status_code == 200


def wait_until_cleared() -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while key_remains._thread is not None:
        assert time.monotonic() < deadline, "the remains were never cleared"
        time.sleep(0.02)


# The last row of a page is the one whose bytes a plain VACUUM leaves.
@pytest.mark.parametrize("which", [1, 4])
def test_soon_after_an_erasure_the_tables_file_holds_the_sealed_key_no_more(people, superuser, monkeypatch, which):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 3.0)
    key, other = sealed_key(superuser, people[which]), sealed_key(superuser, people[2])
    assert in_the_file(superuser, key)
    erase(people[which])
    assert in_the_file(superuser, key), "the row's bytes must outlive its deletion for this test to mean anything"
    wait_until_cleared()
    assert not in_the_file(superuser, key)
    assert in_the_file(superuser, other)
    assert people[2].get("memory/documents/a").status_code == 200


def test_the_daily_command_clears_what_the_service_did_not(people, superuser, monkeypatch):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "clear_remains_soon", lambda: None)
    monkeypatch.setattr("memory.erasure.erase.clear_remains_soon", lambda: None)
    key = sealed_key(superuser, people[4])
    erase(people[4])
    call_command("prune_expired", "--dry-run")
    assert in_the_file(superuser, key)
    call_command("prune_expired")
    assert not in_the_file(superuser, key)


def test_before_postgresql_17_the_command_does_it_as_the_owner(people, superuser, monkeypatch):
    wait_until_cleared()
    monkeypatch.setattr("memory.erasure.erase.clear_remains_soon", lambda: None)
    monkeypatch.setattr(key_remains, "GRANTED_FROM_VERSION", 10_000_000)
    superuser.execute("REVOKE MAINTAIN ON memory_data_keys FROM r1_maint")
    try:
        key = sealed_key(superuser, people[4])
        erase(people[4])
        call_command("prune_expired")
        assert not in_the_file(superuser, key)
    finally:
        superuser.execute("GRANT MAINTAIN ON memory_data_keys TO r1_maint")


def test_a_key_table_in_use_delays_no_erasure_and_is_rewritten_when_it_is_free(people, superuser, monkeypatch):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.2)
    key, done = sealed_key(superuser, people[4]), threading.Event()
    with connect(SUPERUSER) as reader, reader.transaction():
        reader.execute("SELECT count(*) FROM memory_data_keys")
        erase(people[4])
        wait_until_cleared()
        assert in_the_file(superuser, key)
        # The command waits for its turn; whoever reads the table goes on meanwhile.
        pruning = threading.Thread(target=lambda: (_prune(), done.set()))
        pruning.start()
    pruning.join(LIMIT_SECONDS)
    assert done.is_set() and not in_the_file(superuser, key)


def _prune() -> None:
    from django.db import connections

    try:
        call_command("prune_expired")
    finally:
        connections.close_all()


def test_a_table_too_large_to_rewrite_is_vacuumed(people, superuser, monkeypatch):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(key_remains, "REWRITE_MAX_BYTES", 0)
    file = superuser.execute("SELECT pg_relation_filenode('memory_data_keys')").fetchone()
    key = sealed_key(superuser, people[1])
    erase(people[1])
    wait_until_cleared()
    assert superuser.execute("SELECT pg_relation_filenode('memory_data_keys')").fetchone() == file
    assert not in_the_file(superuser, key)


def test_a_service_that_may_not_vacuum_erases_all_the_same(people, superuser, monkeypatch, caplog):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.1)

    def refuse():
        raise psycopg.errors.InsufficientPrivilege("permission denied")

    monkeypatch.setattr(key_remains, "_clear", refuse)
    erase(people[0])
    wait_until_cleared()
    assert "left to prune_expired (InsufficientPrivilege)" in caplog.text


def test_the_planners_statistics_hold_no_sealed_key(people, superuser):
    superuser.execute("ANALYZE memory_data_keys")
    columns = superuser.execute("SELECT attname FROM pg_stats WHERE tablename = 'memory_data_keys'").fetchall()
    assert ("user_hash",) in columns and ("sealed_key",) not in columns
