"""manage.py rotate_keys --data: new data keys, all sealed anew under them, the old ones gone, answers the same."""

from __future__ import annotations

import io
import json
import os

import pytest
from django.core.management import CommandError, call_command

from memory.admission.pace import Pace
from memory.erasure import key_remains
from memory.indexing import reseal as resealing
from memory.maintenance import data_keys
from memory.management.commands import rotate_keys
from memory.rls import bind_tenant
from memory.sealing.keyring import existing_profile, forget_profiles, open_user_id
from memory.services.query import MemoryQuery, query_memory
from tests.commands.rotation import clear, killed_at, rotate, started
from tests.db.memories import remember, remember_summary
from tests.db.scratch import scratch_database
from tests.people import Person
from tests.security.generations import live, of_rows
from tests.security.master_keys import hold

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

MASTER = os.urandom(32)
LONG_AGO = "2025-03-01T08:00:00Z"
TEXTS = {
    "boiler": "The heat pump in the cellar was serviced in March by Ravindra.",
    "ferry": "The ferry to the island leaves at nine on weekdays and at ten on Sundays.",
    "roof": "The roof above the kitchen leaks when the wind comes from the west.",
}


@pytest.fixture(scope="module")
def scratch(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), scratch_database("resealing") as made:
        made.migrate()
        yield made


@pytest.fixture
def superuser(scratch):
    with scratch.connect() as connection:
        yield connection


@pytest.fixture
def people(scratch, superuser, monkeypatch):
    """Two users with three documents each, in a database of their own."""
    monkeypatch.setattr(data_keys, "APART_SECONDS", 0.0)
    hold(monkeypatch, k1=MASTER)
    with scratch.as_alias("default", "maint", "owner", "backup"):
        made = [Person.new("alice"), Person.new("bob")]
        for person in made:
            for doc_id, text in TEXTS.items():
                response = person.index(doc_id, text, thread_id="house", created_at=LONG_AGO,
                                        metadata={"name": doc_id}, speaker="Anna Smith")  # fmt: skip
                assert response.status_code == 201, response.content
        yield made
        clear(superuser)
    forget_profiles()


@pytest.fixture
def alice(people) -> Person:
    return people[0]


def answers(person: Person) -> list[tuple]:
    found = []
    for question in ("When was the heat pump serviced?", "ferry on Sundays"):
        with bind_tenant(person.user_hash):
            results = query_memory(MemoryQuery(question, top_k=10, rerank=False, decay_weight=0.0)).results
        found += [(r.chunk_id, r.text, r.metadata, r.speaker, r.vector, r.lexical, r.fused) for r in results]
    assert found
    return found


def hers(superuser, person: Person, columns: str, table: str = "memory_chunks") -> list[tuple]:
    order = "doc_id"
    return superuser.execute(
        f"SELECT {columns} FROM {table} WHERE user_hash = %s ORDER BY {order}", [person.user_hash]
    ).fetchall()


SEARCHED = "doc_id, id, embedding::text, chunk_index, char_start, char_end, created_at, updated_at, sequence, speaker"
SEALED = {
    "memory_chunks": ("text_cipher", "meta_cipher", "emb_cipher"),
    "memory_documents": ("meta_cipher", "content_mac", "speaker_cipher"),
}


def test_everything_is_sealed_anew_and_nothing_that_is_searched_changes(people, superuser):
    before = [(answers(p), hers(superuser, p, SEARCHED)) for p in people]
    sealed = {
        column: {bytes(row[0]) for row in hers(superuser, people[0], column, table)}
        for table, columns in SEALED.items() for column in columns
    }  # fmt: skip
    said, code = rotate("--data")
    assert (said["keys"], said["chunks"], said["documents"], said["retired"], said["waiting"], code) == (
        2,
        6,
        6,
        2,
        0,
        0,
    )
    assert (said["lost"], said["left"], said["skipped"]) == (0, 0, 0)
    assert [(answers(p), hers(superuser, p, SEARCHED)) for p in people] == before
    for person in people:
        assert live(superuser, person) == [2]
        assert of_rows(superuser, person) == dict.fromkeys(TEXTS, (2,))
        [[blob]] = superuser.execute(
            "SELECT user_id_cipher FROM memory_tenants WHERE user_hash = %s", [person.user_hash]
        ).fetchall()
        assert open_user_id(existing_profile(person.user_hash).newest, bytes(blob)) == person.user_id
        for doc_id, text in TEXTS.items():
            found = person.get(f"memory/documents/{doc_id}").json()
            assert (found["text"], found["metadata"], found["speaker"]) == (text, {"name": doc_id}, "Anna Smith")
    for table, columns in SEALED.items():
        for column in columns:
            assert not sealed[column] & {bytes(row[0]) for row in hers(superuser, people[0], column, table)}, column


def test_what_was_sealed_is_counted_under_the_key_that_sealed_it(alice, superuser):
    rotate("--data", "--user", alice.user_id)
    [count] = superuser.execute(
        "SELECT seal_count FROM memory_tenants WHERE user_hash = %s", [alice.user_hash]
    ).fetchone()
    assert (
        count == 1 + 3 * 3 + 3 * 2
    )  # user id; text, metadata and vector of each chunk; metadata and name of each document


def test_one_user_alone_has_a_new_key_where_one_is_named(people, superuser):
    said, code = rotate("--data", "--user", people[0].user_id)
    assert (said["keys"], said["retired"], code) == (1, 1, 0)
    assert [live(superuser, person) for person in people] == [[2], [1]]
    assert people[0].user_hash not in json.dumps(said) and people[0].user_id not in json.dumps(said)


def test_a_remembered_answer_keeps_the_old_key_for_its_24_hours(people, superuser):
    alice = people[0]

    def send():
        return alice.post("memory/index", {"doc_id": "sea", "text": "The sea is calm."}, **{"idempotency-key": "k-1"})

    first = send()
    said, code = rotate("--data")
    assert (said["retired"], said["waiting"], said["needed_by"]["answers"], code) == (1, 1, 1, 1)
    assert of_rows(superuser, alice)["sea"] == (2,) and live(superuser, alice) == [1, 2]
    again = send()
    assert again.content == first.content and "Idempotent-Replayed" in again
    assert rotate("--status")[0]["data_rotation"] is None, "everybody has a new key, so the run is over"
    said, code = rotate("--data", "--clear")
    assert (said["keys"], said["retired"], said["waiting"], code) == (0, 0, 1, 4), "it goes by itself: try again"
    superuser.execute("UPDATE memory_idempotency SET created_at = created_at - interval '25 hours'")
    said, code = rotate("--data", "--clear")
    assert (said["keys"], said["retired"], said["waiting"], code) == (0, 1, 0, 0)
    assert [live(superuser, person) for person in people] == [[2], [2]]
    assert rotate("--data")[0]["keys"] == 2, "the next one is a run of its own"


def damage_text(superuser, person: Person) -> None:
    superuser.execute(
        "UPDATE memory_chunks SET text_cipher = set_byte(text_cipher, 20, get_byte(text_cipher, 20) # 1)"
        " WHERE user_hash = %s AND doc_id = 'ferry'",
        [person.user_hash],
    )


def test_an_old_key_that_is_still_needed_keeps_nobody_from_the_next_new_one(people, superuser):
    alice, bob = people
    damage_text(superuser, alice)
    said, code = rotate("--data")
    assert (said["keys"], said["waiting"], code) == (2, 1, 1)
    assert said["needed_by"] == {"documents": 1, "chunks": 0, "quarantined_chunks": 1, "answers": 0}
    said, code = rotate("--data")
    assert (said["keys"], said["waiting"], code) == (2, 1, 1)
    said, code = rotate("--data", "--user", alice.user_id)
    assert (said["keys"], said["waiting"], code) == (1, 1, 1)
    assert (live(superuser, alice), live(superuser, bob)) == ([1, 4], [3])
    assert rotate("--data", "--clear")[1] == 1, "another look changes nothing"
    alice.index("ferry", TEXTS["ferry"])
    said, code = rotate("--data", "--clear", "--user", alice.user_id)
    assert (said["keys"], said["retired"], code, live(superuser, alice)) == (0, 1, 0, [4])


def test_an_old_key_that_stays_too_long_is_a_finding(people, superuser):
    damage_text(superuser, people[0])
    rotate("--data")
    assert rotate("--status")[0]["findings"] == []
    superuser.execute("UPDATE memory_data_keys SET created_at = created_at - interval '25 hours'")
    said, code = rotate("--status")
    assert (code, said["data_keys"]["overdue"]) == (1, 1)
    [finding] = said["findings"]
    assert "1 data keys were replaced" in finding and "1 documents, 1 quarantined chunks" in finding


def test_a_user_whose_id_does_not_open_keeps_nobody_else_from_a_new_key(people, superuser):
    damaged, other = sorted(people, key=lambda person: person.user_hash)
    superuser.execute(
        "UPDATE memory_tenants SET user_id_cipher = set_byte(user_id_cipher, 20, get_byte(user_id_cipher, 20) # 1)"
        " WHERE user_hash = %s",
        [damaged.user_hash],
    )
    for generation in (2, 3):
        said, code = rotate("--data")
        assert (said["keys"], said["skipped"], said["damaged"], said["users_left"], code) == (1, 1, 1, 1, 1)
        assert (live(superuser, damaged), live(superuser, other)) == ([1], [generation])
    assert rotate("--data", "--user", damaged.user_id)[1] == 1


def test_a_user_whose_row_is_held_has_his_turn_in_the_next_run_and_the_others_in_this_one(people, scratch, superuser):
    busy, other = sorted(people, key=lambda person: person.user_hash)
    with scratch.connect() as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT 1 FROM memory_tenants WHERE user_hash = %s FOR UPDATE", [busy.user_hash])
        said, code = rotate("--data")
        holder.execute("ROLLBACK")
    assert (said["keys"], said["skipped"], said["busy"], said["users_left"], code) == (1, 1, 1, 1, 4)
    assert (live(superuser, busy), live(superuser, other)) == ([1], [2])
    assert rotate("--status")[0]["data_rotation"]["users_left"] == 1
    assert rotate("--data", "--dry-run")[0]["users_left"] == 1
    assert rotate("--data", "--new-run", "--dry-run")[0]["users_left"] == 2
    said, code = rotate("--data")
    assert (said["keys"], code, live(superuser, busy), live(superuser, other)) == (1, 0, [2], [2])


def test_another_run_begins_where_one_has_not_ended_when_it_is_asked_for(people, superuser):
    superuser.execute("INSERT INTO memory_key_rotations (started_at) VALUES (now() - interval '3 days')")
    assert rotate("--data")[0]["keys"] == 0, "everybody's key is younger than that run"
    superuser.execute("INSERT INTO memory_key_rotations (started_at) VALUES (now() - interval '3 days')")
    said, code = rotate("--data", "--new-run")
    assert (said["keys"], code) == (2, 0)
    assert superuser.execute("SELECT count(*) FROM memory_key_rotations WHERE finished_at IS NULL").fetchone() == (0,)


def test_a_user_who_is_not_there_is_no_rotation_that_is_done(people):
    for arguments in ([], ["--dry-run"], ["--clear"]):
        with pytest.raises(CommandError, match="no such user") as raised:
            rotate("--data", "--user", "nobody", *arguments)
        assert raised.value.returncode == 2


def test_the_old_keys_are_not_left_in_their_tables_file(people, superuser):
    old = [bytes(blob) for (blob,) in superuser.execute("SELECT sealed_key FROM memory_data_keys").fetchall()]

    def in_the_file() -> list[bool]:
        superuser.execute("CHECKPOINT")
        read = "SELECT pg_read_binary_file(pg_relation_filepath('memory_data_keys'))"
        held = bytes(superuser.execute(read).fetchone()[0])
        return [blob in held for blob in old]

    assert in_the_file() == [True, True]
    assert rotate("--data")[0]["files_cleared"] is True
    assert in_the_file() == [False, False]


def test_large_key_tables_are_not_rewritten_while_requests_go_on(people, monkeypatch):
    monkeypatch.setattr(key_remains, "REWRITE_MAX_BYTES", 0)
    said, code = rotate("--data")
    assert (said["retired"], said["files_cleared"], code) == (2, False, 0)


def test_a_key_table_that_is_in_use_is_vacuumed_in_place_of_being_rewritten(people, scratch, monkeypatch):
    monkeypatch.setattr(key_remains, "SERVICE_TRIES", 2)
    monkeypatch.setattr(key_remains, "APART_SECONDS", 0.0)
    with scratch.connect() as reader, reader.transaction():
        reader.execute("SELECT FROM memory_data_keys").fetchall()
        said, code = rotate("--data")
    assert (said["retired"], said["files_cleared"], code) == (2, False, 0)


@pytest.mark.parametrize(
    ("arguments", "paced"),
    [(["--data"], 500.0), (["--data", "--rate", "0"], 0.0), (["--data", "--rate", "7"], 7.0), (["--rewrap"], 0.0)],
)
def test_new_data_keys_are_made_at_a_rate_that_leaves_the_service_its_time(people, monkeypatch, arguments, paced):
    made = []

    def pace(per_second: float) -> Pace:
        made.append(per_second)
        return Pace(0)

    monkeypatch.setattr(rotate_keys, "Pace", pace)
    call_command("rotate_keys", *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    assert made == [paced]


def test_a_run_that_was_killed_goes_on_and_gives_nobody_a_second_key(people, scratch, superuser):
    before = [answers(person) for person in people]
    last = max(people, key=lambda person: person.user_hash)
    row = "SELECT 1 FROM memory_chunks WHERE user_hash = %s AND doc_id = 'roof' FOR UPDATE"
    with killed_at(scratch, row, [last.user_hash], "--data"):
        assert of_rows(superuser, last)["roof"] == (1, 2), "its row is under the new key, its chunk is not"
    forget_profiles()
    assert [answers(person) for person in people] == before
    out, err = started(scratch, "--data").communicate(timeout=60)
    said = json.loads(out)
    assert (said["keys"], said["chunks"], said["documents"], said["retired"]) == (0, 3, 0, 2), err
    forget_profiles()
    assert [live(superuser, person) for person in people] == [[2], [2]]
    assert [answers(person) for person in people] == before


def during(monkeypatch, name: str, work) -> None:
    """`work()` once, after a batch was read and sealed and before it is written."""
    write = resealing._write

    def work_and_write(profile, batch, sql, done):
        if batch.replacements and name in sql:
            monkeypatch.setattr(resealing, "_write", write)
            work()
        return write(profile, batch, sql, done)

    monkeypatch.setattr(resealing, "_write", work_and_write)


@pytest.mark.parametrize("table", ["memory_chunks", "memory_documents"])
def test_a_document_replaced_meanwhile_keeps_its_newer_text(alice, superuser, monkeypatch, table):
    during(monkeypatch, table, lambda: alice.index("ferry", "The ferry does not run any more."))
    said, code = rotate("--data", "--user", alice.user_id)
    assert (said["lost"], code) == (1, 0)
    assert alice.get("memory/documents/ferry").json()["text"] == "The ferry does not run any more."
    assert of_rows(superuser, alice) == dict.fromkeys(TEXTS, (2,))


def test_a_document_removed_meanwhile_stays_away(alice, superuser, monkeypatch):
    during(monkeypatch, "memory_chunks", lambda: alice.delete("memory/documents/ferry"))
    assert rotate("--data", "--user", alice.user_id)[0]["lost"] == 1
    assert alice.get("memory/documents/ferry").status_code == 404


@pytest.mark.parametrize("table", ["memory_chunks", "memory_documents"])
def test_a_user_erased_meanwhile_stays_erased(people, superuser, monkeypatch, table):
    erased = min(people, key=lambda person: person.user_hash)
    during(monkeypatch, table, lambda: erased.post("memory/erase", {"confirm": erased.user_id}))
    said, code = rotate("--data")
    assert (said["skipped"], code) == (0, 0)
    assert (live(superuser, erased), of_rows(superuser, erased)) == ([], {})
    [other] = [person for person in people if person is not erased]
    assert live(superuser, other) == [2]


def test_entities_found_meanwhile_are_not_lost(alice, superuser, monkeypatch):
    during(monkeypatch, "memory_chunks", lambda: alice.post("memory/entities", {"doc_id": "boiler"}))
    said, code = rotate("--data", "--user", alice.user_id)
    assert (said["lost"], code) == (1, 1), "the chunk is under its old key still, so that one is needed"
    assert "entities" in alice.query("heat pump").json()["results"][0]["metadata"]
    assert rotate("--data", "--clear", "--user", alice.user_id)[1] == 0
    assert "entities" in alice.query("heat pump").json()["results"][0]["metadata"]
    assert live(superuser, alice) == [2]


def test_damaged_and_quarantined_rows_are_left_and_reported_and_keep_their_key(alice, superuser):
    damage_text(superuser, alice)
    said, code = rotate("--data", "--user", alice.user_id)
    assert (said["chunks"], said["documents"], said["left"], said["waiting"], code) == (2, 2, 2, 1, 1)
    assert alice.query("ferry").json()["degraded"] == ["quarantined"]
    assert rotate("--data", "--clear", "--user", alice.user_id)[0]["left"] == 1, (
        "the quarantined chunk is not even looked at"
    )
    alice.index("ferry", TEXTS["ferry"])
    assert rotate("--data", "--clear", "--user", alice.user_id)[1] == 0
    assert live(superuser, alice) == [2]


def test_an_old_backups_rows_do_not_open_under_the_new_key(alice, superuser):
    columns = "id, generation, text_cipher, meta_cipher, emb_cipher"
    kept = superuser.execute(f"SELECT {columns} FROM memory_chunks WHERE user_hash = %s AND doc_id = 'ferry'",
                             [alice.user_hash]).fetchone()  # fmt: skip
    rotate("--data", "--user", alice.user_id)
    put = ("UPDATE memory_chunks SET generation = %s, text_cipher = %s, meta_cipher = %s, emb_cipher = %s"
           " WHERE user_hash = %s AND id = %s")  # fmt: skip
    # As it was, and as if it had been sealed under the new key.
    for generation, code in ((1, "key_unavailable"), (2, "decryption_failed")):
        superuser.execute(put, [generation, *kept[2:], alice.user_hash, kept[0]])
        superuser.execute("UPDATE memory_chunks SET quarantined_at = NULL WHERE user_hash = %s", [alice.user_hash])
        response = alice.query("ferry on Sundays")
        assert response.json()["code"] == code
        assert "ferry" not in response.content.decode()
        assert "ferry" not in [r["doc_id"] for r in alice.query("ferry on Sundays").json()["results"]]


def test_vectors_of_ones_own_and_summaries_are_sealed_anew_too(alice, superuser):
    remember(alice, "own")
    remember_summary(alice, "short", "boiler", "ferry")
    said, code = rotate("--data", "--user", alice.user_id)
    assert (said["chunks"], said["documents"], said["left"], code) == (5, 5, 0, 0)
    assert alice.get("memory/documents/short").json()["metadata"] == {"derived_from": ["boiler", "ferry"]}
