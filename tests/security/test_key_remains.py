"""What destroyed keys leave behind on the disk: nothing in their tables' files, nothing in the statistics."""

from __future__ import annotations

import ast
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
from tests.security.generations import add

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint", "owner"])

LIMIT_SECONDS = 60
# Of the people here: the last row of a page is the one whose bytes a plain VACUUM leaves.
LAST_ROW = 4


def new_people(count: int = 5) -> list[Person]:
    people = [Person.new("user") for _ in range(count)]
    for person in people:
        remember(person, "a")
    return people


@pytest.fixture
def people(transactional_db) -> list[Person]:
    return new_people()


KEY_TABLES = ("memory_data_keys", "memory_search_keys")


def sealed_keys(superuser, person: Person) -> dict[str, list[bytes]]:
    """Every sealed key of the person's, of all generations and spaces, by table."""
    found = {}
    for table in KEY_TABLES:
        rows = superuser.execute(f"SELECT sealed_key FROM {table} WHERE user_hash = %s", [person.user_hash])
        found[table] = [bytes(key) for (key,) in rows.fetchall()]
        assert found[table], f"no key in {table}: the test would prove nothing"
    return found


def in_the_files(superuser, keys: dict[str, list[bytes]]) -> dict[str, list[bool]]:
    """Whether each key table's file on the disk holds each of its keys."""
    superuser.execute("CHECKPOINT")
    found = {}
    for table in keys:
        folder, path = superuser.execute(
            "SELECT current_setting('data_directory'), pg_relation_filepath(%s)", [table]
        ).fetchone()
        stored = (Path(folder) / path).read_bytes()
        found[table] = [key in stored for key in keys[table]]
    return found


def are_there(superuser, keys: dict[str, list[bytes]]) -> bool:
    return all(all(each) for each in in_the_files(superuser, keys).values())


def are_gone(superuser, keys: dict[str, list[bytes]]) -> bool:
    return not any(any(each) for each in in_the_files(superuser, keys).values())


def one_amid_its_pages(superuser, people: list[Person]) -> Person:
    """One of them whose keys' rows have two others after them on their pages.

    The tables were rewritten just before, so rows lie on a page in the order they came. A plain VACUUM moves those that
    come later over a deleted one; a single one may be shorter.
    """
    amid = {person.user_hash: person for person in people}
    for table in KEY_TABLES:
        places = [
            (user_hash, *ast.literal_eval(ctid))
            for user_hash, ctid in superuser.execute(f"SELECT user_hash, ctid::text FROM {table}").fetchall()
        ]
        for user_hash, page, line in places:
            if sum(other[1] == page and other[2] > line for other in places) < 2:
                amid.pop(user_hash, None)
    assert amid, "everybody's row is among the last of a page"
    return next(iter(amid.values()))


def erase(person: Person) -> None:
    assert person.post("memory/erase", {"confirm": person.user_id}).status_code == 200


def wait_until_cleared() -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while key_remains._thread is not None:
        assert time.monotonic() < deadline, "the remains were never cleared"
        time.sleep(0.02)


@pytest.mark.parametrize("which", [1, LAST_ROW])
def test_soon_after_an_erasure_the_tables_file_holds_the_sealed_key_no_more(people, superuser, monkeypatch, which):
    wait_until_cleared()
    clear, seen = key_remains._clear, threading.Event()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(key_remains, "_clear", lambda: seen.wait(60) and clear())
    keys, other = sealed_keys(superuser, people[which]), sealed_keys(superuser, people[2])
    assert are_there(superuser, keys)
    erase(people[which])
    # PostgreSQL may tidy a page that is nearly full whenever it reads it, but never takes the bytes of its last row.
    if which == LAST_ROW:
        assert are_there(superuser, keys), "the row's bytes must outlive its deletion for this test to mean anything"
    seen.set()
    wait_until_cleared()
    assert are_gone(superuser, keys)
    assert are_there(superuser, other)
    assert people[2].get("memory/documents/a").status_code == 200


def test_the_daily_command_clears_what_the_service_did_not(people, superuser, monkeypatch):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "clear_remains_soon", lambda: None)
    monkeypatch.setattr("memory.erasure.erase.clear_remains_soon", lambda: None)
    keys = sealed_keys(superuser, people[4])
    erase(people[4])
    call_command("prune_expired", "--dry-run")
    assert are_there(superuser, keys)
    call_command("prune_expired")
    assert are_gone(superuser, keys)


def test_before_postgresql_17_the_command_does_it_as_the_owner(people, superuser, monkeypatch):
    wait_until_cleared()
    monkeypatch.setattr("memory.erasure.erase.clear_remains_soon", lambda: None)
    monkeypatch.setattr(key_remains, "GRANTED_FROM_VERSION", 10_000_000)
    superuser.execute("REVOKE MAINTAIN ON memory_data_keys, memory_search_keys FROM r1_maint")
    try:
        keys = sealed_keys(superuser, people[4])
        erase(people[4])
        call_command("prune_expired")
        assert are_gone(superuser, keys)
    finally:
        superuser.execute("GRANT MAINTAIN ON memory_data_keys, memory_search_keys TO r1_maint")


@pytest.mark.parametrize("table", KEY_TABLES)
def test_a_key_table_in_use_delays_no_erasure_and_is_rewritten_when_it_is_free(people, superuser, monkeypatch, table):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.2)
    keys, done = sealed_keys(superuser, people[4]), threading.Event()
    with connect(SUPERUSER) as reader, reader.transaction():
        reader.execute(f"SELECT count(*) FROM {table}")
        erase(people[4])
        wait_until_cleared()
        assert all(in_the_files(superuser, keys)[table])
        # The command waits for its turn; whoever reads the table goes on meanwhile.
        pruning = threading.Thread(target=lambda: (_prune(), done.set()))
        pruning.start()
    pruning.join(LIMIT_SECONDS)
    assert done.is_set() and are_gone(superuser, keys)


def _prune() -> None:
    from django.db import connections

    try:
        call_command("prune_expired")
    finally:
        connections.close_all()


def test_a_table_too_large_to_rewrite_is_vacuumed(transactional_db, superuser, monkeypatch):
    wait_until_cleared()
    superuser.execute(f"VACUUM (FULL) {', '.join(KEY_TABLES)}")
    people = new_people(12)
    person = one_amid_its_pages(superuser, people)
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(key_remains, "REWRITE_MAX_BYTES", 0)
    files = "SELECT pg_relation_filenode('memory_data_keys'), pg_relation_filenode('memory_search_keys')"
    before = superuser.execute(files).fetchone()
    keys = sealed_keys(superuser, person)
    erase(person)
    wait_until_cleared()
    assert superuser.execute(files).fetchone() == before
    for _ in range(120):
        if are_gone(superuser, keys):
            return
        # Another session's snapshot, an ANALYZE of PostgreSQL's own say, may have kept them.
        time.sleep(0.5)
        key_remains._clear()
    assert are_gone(superuser, keys)


def test_a_service_that_may_not_vacuum_erases_all_the_same(people, superuser, monkeypatch, caplog):
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.1)

    def refuse():
        raise psycopg.errors.InsufficientPrivilege("permission denied")

    monkeypatch.setattr(key_remains, "_clear", refuse)
    erase(people[0])
    wait_until_cleared()
    assert "left to prune_expired (InsufficientPrivilege)" in caplog.text


def test_keys_of_every_generation_are_cleared_from_the_file(people, superuser, monkeypatch):
    """What stands last of a generation may be an older version of its row: adding one counts the seals in the old."""
    wait_until_cleared()
    monkeypatch.setattr(key_remains, "SETTLE_SECONDS", 0.5)
    for _ in range(2):
        add(people[1])
    keys = sealed_keys(superuser, people[1])
    assert len(keys["memory_data_keys"]) == 3 and are_there(superuser, keys)
    erase(people[1])
    wait_until_cleared()
    assert are_gone(superuser, keys)


@pytest.mark.parametrize("table", KEY_TABLES)
def test_the_planners_statistics_hold_no_sealed_key(people, superuser, table):
    superuser.execute(f"ANALYZE {table}")
    columns = superuser.execute("SELECT attname FROM pg_stats WHERE tablename = %s", [table]).fetchall()
    assert ("user_hash",) in columns and ("sealed_key",) not in columns
