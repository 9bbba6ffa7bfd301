"""POST /memory/index with `documents`: several at once, all or none."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from memory.errors import StaleKeys
from memory.indexing import store
from memory.limits import CHUNKS_PER_CALL_MAX

pytestmark = pytest.mark.django_db(transaction=True)

SENTENCE = "The ferry to the island leaves at nine on weekdays. "


def document(doc_id: str, text: str = SENTENCE, **fields) -> dict:
    return {"doc_id": doc_id, "text": text, **fields}


def index_all(person, documents, **fields):
    return person.post("memory/index", {"documents": documents, **fields})


def errors_of(response) -> set[tuple[str, str]]:
    assert response.status_code == 422, response.content
    return {(error["field"], error["code"]) for error in response.json()["errors"]}


def counts(superuser, person) -> tuple[int, int] | None:
    row = "SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s"
    return superuser.execute(row, [person.user_hash]).fetchone()


def test_several_documents_are_stored_and_answered_in_the_order_they_came_in(alice, superuser):
    answer = index_all(alice, [document("b", SENTENCE * 60), document("a"), document("c", "Something else.")])
    assert answer.status_code == 201
    body = answer.json()
    assert [each["doc_id"] for each in body["documents"]] == ["b", "a", "c"]
    assert set(body) == {"documents", "chunks", "took_ms"}
    assert all(set(each) == {"doc_id", "chunks", "chunk_ids", "replaced"} for each in body["documents"])
    assert body["chunks"] == sum(each["chunks"] for each in body["documents"]) == counts(superuser, alice)[1]
    assert body["documents"][0]["chunks"] > 1
    for each in body["documents"]:
        assert alice.get(f"memory/documents/{each['doc_id']}").json()["chunk_ids"] == each["chunk_ids"]
    assert alice.get("memory/documents/b").json()["text"] == SENTENCE * 60


def test_201_if_any_is_new_and_200_if_all_were_there(alice):
    assert index_all(alice, [document("a")]).status_code == 201
    mixed = index_all(alice, [document("a"), document("b")])
    assert (mixed.status_code, [each["replaced"] for each in mixed.json()["documents"]]) == (201, [True, False])
    assert index_all(alice, [document("a"), document("b")]).status_code == 200


def test_one_bad_document_is_named_by_its_place_and_none_is_stored(alice, superuser):
    good = [document(str(number)) for number in range(3)]
    response = index_all(alice, [*good, document("bad", metadata=[]), document("worse", text=" ", color="red")])
    assert errors_of(response) == {
        ("documents[3].metadata", "invalid"),
        ("documents[4].text", "blank"),
        ("documents[4].color", "unknown_field"),
    }
    assert counts(superuser, alice) is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"documents": []}, ("documents", "empty")),
        ({"documents": {}}, ("documents", "not_a_list")),
        ({"documents": None}, ("documents", "null")),
        ({"documents": ["a"]}, ("documents[0]", "invalid")),
        ({"documents": [document("a")], "doc_id": "b"}, ("doc_id", "unknown_field")),
        ({"documents": [document("a")], "text": SENTENCE}, ("text", "unknown_field")),
        ({"documents": [{"documents": [document("a")]}]}, ("documents[0].documents", "unknown_field")),
        ({"documents": [document("a"), document("b"), document("a")]}, ("documents[2].doc_id", "duplicate")),
    ],
)
def test_a_body_is_one_document_or_a_list_of_different_ones(alice, body, error):
    assert error in errors_of(alice.post("memory/index", body))


def test_a_user_id_is_ignored_at_both_levels(alice, bob):
    assert index_all(alice, [document("a", user_id=bob.user_id)], user_id=bob.user_id).status_code == 201
    assert alice.get("memory/documents/a").status_code == 200
    assert bob.get("memory/documents/a").status_code == 404


def test_two_hundred_documents_of_a_chunk_are_stored_and_one_more_is_refused(alice, superuser):
    many = [document(str(number), "Sea.") for number in range(CHUNKS_PER_CALL_MAX + 1)]
    refused = index_all(alice, many)
    assert errors_of(refused) == {("documents", "too_many_chunks")}
    assert (refused.json()["code"], "201" in refused.json()["detail"]) == ("too_many_chunks", True)
    assert counts(superuser, alice) is None
    assert index_all(alice, many[:-1]).json()["chunks"] == CHUNKS_PER_CALL_MAX
    assert counts(superuser, alice) == (CHUNKS_PER_CALL_MAX, CHUNKS_PER_CALL_MAX)


def test_the_chunks_of_all_documents_count_together(alice, superuser):
    refused = index_all(alice, [document("a", "word " * 60_000), document("b", "word " * 60_000)])
    assert errors_of(refused) == {("documents", "too_many_chunks")}
    said = [int(word) for word in refused.json()["detail"].split() if word.isdigit()]
    assert said == [CHUNKS_PER_CALL_MAX]
    assert counts(superuser, alice) is None


def test_a_failure_at_the_last_document_leaves_the_earlier_versions_of_all(alice, monkeypatch):
    before = [index_all(alice, [document("a", "One."), document("b", "Two.")]).json()["documents"]]
    store_document, stored = store.store_document, []

    def store_all_but_the_last(tx, sealed):
        if len(stored) % 3 == 2:
            stored.append("failed")
            raise StaleKeys(retry_after_seconds=1)
        stored.append(sealed.doc_id)
        return store_document(tx, sealed)

    monkeypatch.setattr(store, "store_document", store_all_but_the_last)
    response = index_all(alice, [document("a", "Three."), document("b", "Four."), document("c", "Five.")])
    assert (response.status_code, stored) == (503, ["a", "b", "failed"] * 2)
    for each in before[0]:
        assert alice.get(f"memory/documents/{each['doc_id']}").json()["chunk_ids"] == each["chunk_ids"]
    assert alice.get("memory/documents/c").status_code == 404


def test_a_summary_sent_with_what_it_was_made_from_outlives_the_replacement_of_that(alice, superuser):
    made = {"source": "summary", "metadata": {"derived_from": ["a", "b"]}}
    sent = [document("s", "In short.", **made), document("a"), document("b")]
    for _ in range(2):
        # Its earlier version goes with theirs, so it is new each time.
        assert not index_all(alice, sent).json()["documents"][0]["replaced"]
        assert counts(superuser, alice) == (3, 3)
    assert alice.get("memory/documents/s").status_code == 200
    assert index_all(alice, [document("a")]).status_code == 200
    assert alice.get("memory/documents/s").status_code == 404


def test_documents_made_from_one_another_in_a_circle_are_refused(alice):
    circle = [
        document(mine, source="summary", metadata={"derived_from": [other]}) for mine, other in (("a", "b"), ("b", "a"))
    ]
    assert errors_of(index_all(alice, circle)) == {("documents", "invalid")}


def test_batches_with_the_same_documents_in_opposite_order_both_succeed_and_one_wins_whole(alice, superuser):
    start = threading.Barrier(2, timeout=30)

    def send(name: str, doc_ids: list[str]) -> list[int]:
        found = []
        try:
            for number in range(20):
                start.wait()
                text = f"Version {name} {number}."
                found.append(index_all(alice, [document(doc_id, text) for doc_id in doc_ids]).status_code)
        finally:
            connections.close_all()
        return found

    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(send, "one", ["a", "b", "c"]), pool.submit(send, "other", ["c", "b", "a"])]
        assert {status for call in calls for status in call.result(120)} <= {200, 201}
    texts = {alice.get(f"memory/documents/{doc_id}").json()["text"] for doc_id in "abc"}
    assert len(texts) == 1
    assert counts(superuser, alice) == (3, 3)
