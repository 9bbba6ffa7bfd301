"""Idempotency-Key: the same request twice is carried out once and answered the same."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from prometheus_client import REGISTRY

from memory.erasure.erase import KEY_TABLES
from memory.indexing import store
from memory.sealing.keyring import forget_profiles
from memory.sealing.profile import DATA_KEY_COLUMN, SealedKey
from memory.services import idempotency

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = "The ferry to the island leaves at nine on weekdays."
BODY = {"doc_id": "ferry", "text": TEXT, "metadata": {"b": 1, "a": [1.5, None]}, "created_at": "2026-01-31T09:30:00Z"}


def send(person, body=BODY, key="first-try"):
    return person.post("memory/index", body, **{"idempotency-key": key})


def is_replay_of(again, first) -> bool:
    same = (again.status_code, again.content, again["Content-Type"])
    replayed = again.get("Idempotent-Replayed") == "true"
    return replayed and same == (first.status_code, first.content, first["Content-Type"])


def remembered(superuser, person) -> int:
    rows = "SELECT count(*) FROM memory_idempotency WHERE user_hash = %s"
    return superuser.execute(rows, [person.user_hash]).fetchone()[0]


def pass_hours(superuser, person, hours: float) -> None:
    done = superuser.execute(
        "UPDATE memory_idempotency SET created_at = created_at - make_interval(secs => %s) WHERE user_hash = %s",
        [hours * 3600, person.user_hash],
    )
    assert done.rowcount > 0


def chunk_ids(person, doc_id="ferry") -> list[str]:
    return person.get(f"memory/documents/{doc_id}").json()["chunk_ids"]


@pytest.mark.parametrize(
    "body", [BODY, {"documents": [BODY, {"doc_id": "b", "text": "Żółć 日本."}]}], ids=["one", "several"]
)
def test_the_same_request_again_gets_the_first_answer_byte_for_byte_and_stores_nothing(alice, superuser, body):
    first = send(alice, body)
    stored = chunk_ids(alice)
    again = send(alice, body)
    assert (first.status_code, "Idempotent-Replayed" in first) == (201, False)
    assert is_replay_of(again, first)
    assert (chunk_ids(alice), remembered(superuser, alice)) == (stored, 1)


def test_without_a_key_nothing_is_remembered_and_each_request_counts(alice, superuser):
    assert [alice.post("memory/index", BODY).status_code for _ in range(2)] == [201, 200]
    assert remembered(superuser, alice) == 0


def test_an_answer_is_given_again_even_when_the_document_has_changed_or_gone_since(alice):
    first = send(alice)
    assert alice.index("ferry", "Another text.").status_code == 200
    assert is_replay_of(send(alice), first)
    assert alice.get("memory/documents/ferry").json()["text"] == "Another text."
    assert alice.delete("memory/documents/ferry").status_code == 204
    assert is_replay_of(send(alice), first)
    assert alice.get("memory/documents/ferry").status_code == 404


def test_a_request_is_the_same_however_its_json_is_written(alice):
    first = send(alice)
    for body in (
        json.dumps(BODY, indent=3),
        json.dumps({name: BODY[name] for name in reversed(BODY)}),
        BODY | {"metadata": {"a": [1.5, None], "b": 1}},
        BODY | {"created_at": "2026-01-31t10:30:00.000+01:00"},
        BODY | {"source": "api", "thread_id": None, "user_id": "whoever"},
        json.dumps(BODY).replace("ferry", "f\\u0065rry"),
    ):
        assert is_replay_of(send(alice, body), first), body


@pytest.mark.parametrize(
    "other",
    [
        BODY | {"text": TEXT + " "},
        BODY | {"doc_id": "Ferry"},
        BODY | {"source": "notes"},
        BODY | {"metadata": {"b": True, "a": [1.5, None]}},
        BODY | {"metadata": {"b": 1.0, "a": [1.5, None]}},
        BODY | {"created_at": "2026-01-31T09:30:01Z"},
        {"documents": [BODY]},
    ],
)
def test_another_request_under_the_same_key_is_409_and_changes_nothing(alice, other):
    first = send(alice)
    stored = chunk_ids(alice)
    refused = send(alice, other)
    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_conflict")
    assert chunk_ids(alice) == stored
    assert alice.get("memory/documents/Ferry").status_code == 404
    assert is_replay_of(send(alice), first)


def test_another_users_same_key_is_independent(alice, bob):
    first = send(alice)
    other = send(bob, BODY | {"text": "Bob's own."})
    assert (other.status_code, "Idempotent-Replayed" in other) == (201, False)
    assert is_replay_of(send(alice), first)
    assert is_replay_of(send(bob, BODY | {"text": "Bob's own."}), other)


def test_another_key_is_another_request(alice):
    first, second = send(alice), send(alice, key="second-try")
    assert (second.status_code, "Idempotent-Replayed" in second) == (200, False)
    assert first.json()["chunk_ids"] != second.json()["chunk_ids"]


@pytest.mark.parametrize("key", ["k" * 128, "!", "~{}|", "a,b;c='d'\"e\""])
def test_a_key_is_any_visible_ascii(alice, key):
    assert is_replay_of(send(alice, key=key), send(alice, key=key)) is False
    assert send(alice, key=key)["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("key", ["", "k" * 129, "two words", "tab\tbed", "é", "\x7f", " "])
def test_any_other_key_is_422_and_stores_nothing(alice, key):
    refused = send(alice, key=key)
    assert refused.status_code == 422
    assert [(e["field"], e["code"]) for e in refused.json()["errors"]] == [("Idempotency-Key", "invalid")]
    assert alice.get("memory/documents/ferry").status_code == 404


def test_a_refused_request_is_not_remembered(alice, superuser):
    assert send(alice, BODY | {"text": " "}).status_code == 422
    assert alice.client(scope="memory:read").post(
        "/api/v1/memory/index", BODY, content_type="application/json", headers={"idempotency-key": "first-try"}
    ).status_code == 403  # fmt: skip
    assert remembered(superuser, alice) == 0
    assert send(alice).status_code == 201


def test_a_write_that_fails_in_its_transaction_leaves_no_answer(alice, superuser, monkeypatch):
    def fail(*args):
        raise RuntimeError("between the document and the answer")

    with monkeypatch.context() as broken:
        broken.setattr(idempotency, "seal_answer", fail)
        assert send(alice).status_code == 500
    assert alice.get("memory/documents/ferry").status_code == 404
    assert remembered(superuser, alice) == 0
    assert send(alice).status_code == 201


def test_eight_at_once_with_one_key_write_once_and_get_eight_equal_answers(alice, superuser, monkeypatch):
    store_document, stored = store.store_document, []

    def counted(tx, document):
        stored.append(document.doc_id)
        return store_document(tx, document)

    monkeypatch.setattr(store, "store_document", counted)
    start = threading.Barrier(8, timeout=30)

    def call():
        try:
            start.wait()
            return send(alice)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result(120) for future in [pool.submit(call) for _ in range(8)]]
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert sorted("Idempotent-Replayed" in answer for answer in answers) == [False] + [True] * 7
    assert (stored, remembered(superuser, alice)) == (["ferry"], 1)


def test_eight_different_requests_at_once_with_one_key_leave_one_of_them_and_seven_conflicts(alice):
    start = threading.Barrier(8, timeout=30)

    def call(number: int):
        try:
            start.wait()
            return send(alice, BODY | {"doc_id": f"ferry-{number}"}).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(call, range(8)))
    assert sorted(statuses) == [201] + [409] * 7
    found = [alice.get(f"memory/documents/ferry-{number}").status_code for number in range(8)]
    assert [status == 200 for status in found] == [status == 201 for status in statuses]


def test_after_24_hours_a_key_is_new_and_what_expired_is_deleted_on_the_way(alice, superuser):
    first = send(alice)
    send(alice, key="older")
    pass_hours(superuser, alice, 23.9)
    assert is_replay_of(send(alice), first)
    pass_hours(superuser, alice, 0.2)
    again = send(alice, BODY | {"text": "Another text."})
    assert (again.status_code, "Idempotent-Replayed" in again) == (200, False)
    assert remembered(superuser, alice) == 1


def test_neither_key_nor_request_nor_answer_can_be_read_from_the_row(alice, superuser):
    key = "order-4711-of-alice"
    first = send(alice, key=key)
    (row,) = superuser.execute(
        "SELECT row(i.*)::text FROM memory_idempotency i WHERE user_hash = %s", [alice.user_hash]
    ).fetchone()
    for clear in (key, TEXT, "ferry", first.json()["chunk_ids"][0]):
        assert clear not in row
        assert clear.encode().hex() not in row


def test_the_same_key_of_two_users_is_not_the_same_in_their_rows(alice, bob, superuser):
    send(alice)
    send(bob)
    macs = superuser.execute(
        "SELECT key_mac, body_mac FROM memory_idempotency WHERE user_hash = ANY(%s)", [[alice.user_hash, bob.user_hash]]
    ).fetchall()
    assert len({bytes(mac) for row in macs for mac in row}) == 4


@pytest.mark.parametrize(
    "damage",
    [
        "answer_cipher = set_byte(answer_cipher, 20, get_byte(answer_cipher, 20) # 1)",
        "(body_mac, answer_cipher) = (SELECT o.body_mac, o.answer_cipher FROM memory_idempotency o"
        " WHERE o.user_hash = i.user_hash AND o.key_mac <> i.key_mac)",
    ],
    ids=["flipped bit", "another key's answer"],
)
def test_an_answer_that_was_changed_is_not_given(alice, superuser, damage):
    send(alice)
    send(alice, key="second-try")
    failed = REGISTRY.get_sample_value("memory_decrypt_failed_total", {"column": "answer_cipher"}) or 0
    superuser.execute(f"UPDATE memory_idempotency i SET {damage} WHERE user_hash = %s", [alice.user_hash])
    refused = send(alice)
    assert (refused.status_code, refused.json()["code"]) == (500, "decryption_failed")
    assert REGISTRY.get_sample_value("memory_decrypt_failed_total", {"column": "answer_cipher"}) == failed + 1


def test_a_key_remembered_before_the_user_was_erased_is_new(alice, superuser):
    send(alice)
    for table in ("memory_chunks", "memory_documents", "memory_idempotency", *KEY_TABLES, "memory_tenants"):
        superuser.execute(f"DELETE FROM {table} WHERE user_hash = %s", [alice.user_hash])
    # This process still has the destroyed key in its cache.
    again = send(alice)
    assert (again.status_code, "Idempotent-Replayed" in again) == (201, False)


def test_an_answer_of_a_destroyed_key_that_a_backup_brings_back_is_not_found(alice, superuser):
    send(alice)
    for table in ("memory_chunks", "memory_documents", *KEY_TABLES, "memory_tenants"):
        superuser.execute(f"DELETE FROM {table} WHERE user_hash = %s", [alice.user_hash])
    again = send(alice)
    assert (again.status_code, "Idempotent-Replayed" in again) == (201, False)
    assert remembered(superuser, alice) == 2


def test_a_change_of_the_master_key_alone_keeps_what_was_remembered(alice, superuser):
    first = send(alice)
    key_id, sealed = superuser.execute(
        "SELECT key_id, sealed_key FROM memory_data_keys WHERE user_hash = %s", [alice.user_hash]
    ).fetchone()
    data_key = SealedKey(key_id, bytes(sealed)).open(alice.user_hash, DATA_KEY_COLUMN, 1)
    resealed = SealedKey.of(data_key, alice.user_hash, DATA_KEY_COLUMN, 1)
    superuser.execute(
        "UPDATE memory_data_keys SET sealed_key = %s WHERE user_hash = %s", [resealed.blob, alice.user_hash]
    )
    forget_profiles()
    assert is_replay_of(send(alice), first)


def test_the_answers_seal_is_counted_too(alice, superuser):
    seals = "SELECT seal_count FROM memory_tenants WHERE user_hash = %s"
    send(alice)
    before = superuser.execute(seals, [alice.user_hash]).fetchone()[0]
    send(alice)
    assert superuser.execute(seals, [alice.user_hash]).fetchone()[0] == before
    alice.index("ferry", TEXT)
    plain = superuser.execute(seals, [alice.user_hash]).fetchone()[0] - before
    send(alice, key="second-try")
    assert superuser.execute(seals, [alice.user_hash]).fetchone()[0] == before + plain + plain + 1
