"""POST /memory/index: what it takes, what it refuses, and that it is all or nothing."""

import pytest

from memory.limits import CHUNKS_PER_CALL_MAX, METADATA_MAX_BYTES, TEXT_MAX_BYTES

pytestmark = pytest.mark.django_db(transaction=True)

SENTENCE = "The ferry to the island leaves at nine on weekdays. "


def errors_of(response) -> set[tuple[str, str]]:
    return {(error["field"], error["code"]) for error in response.json().get("errors", [])}


def test_a_new_document_is_201_and_a_replaced_one_is_200_with_new_chunks(alice):
    first = alice.index("plan", SENTENCE * 100)
    second = alice.index("plan", "The ferry no longer runs.")
    assert (first.status_code, first.json()["replaced"]) == (201, False)
    assert (second.status_code, second.json()["replaced"]) == (200, True)
    assert first.json()["chunks"] > 1
    assert not set(first.json()["chunk_ids"]) & set(second.json()["chunk_ids"])
    assert [r["text"] for r in alice.query("ferry", top_k=10).json()["results"]] == ["The ferry no longer runs."]


def test_the_answer_says_how_long_each_step_took(alice):
    took_ms = alice.index("plan", SENTENCE).json()["took_ms"]
    assert set(took_ms) == {"chunk", "embed", "seal", "store", "total"}


def test_the_text_comes_back_character_for_character(alice):
    text = "\n\n  Żółć — 日本語のテキスト 👩‍👩‍👧 e\u0301\r\n" + SENTENCE * 60 + "\t end  "
    assert alice.index("odd", text).status_code == 201
    stored = alice.get("memory/documents/odd").json()
    assert stored["text"] == text
    for result in alice.query("ferry", top_k=10).json()["results"]:
        citation = result["citation"]
        assert text[citation["start"] : citation["end"]] == citation["quote"]


def test_a_user_id_in_the_body_is_ignored(alice, bob):
    assert alice.index("mine", SENTENCE, user_id=bob.user_id).status_code == 201
    assert alice.get("memory/documents/mine").status_code == 200
    assert bob.get("memory/documents/mine").status_code == 404


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"user_hash": "0" * 64}, ("user_hash", "unknown_field")),
        ({"doc_id": ""}, ("doc_id", "min_length")),
        ({"doc_id": "d" * 257}, ("doc_id", "max_length")),
        ({"doc_id": "a\x00b"}, ("doc_id", "invalid")),
        ({"doc_id": "a\nb"}, ("doc_id", "invalid")),
        ({"doc_id": "a//b"}, ("doc_id", "invalid")),
        ({"doc_id": "../b"}, ("doc_id", "invalid")),
        ({"doc_id": 7}, ("doc_id", "invalid")),
        ({"text": ""}, ("text", "min_length")),
        ({"text": " \n\t"}, ("text", "blank")),
        ({"text": "a\x00b"}, ("text", "invalid")),
        ({"text": None}, ("text", "null")),
        ({"source": "s" * 65}, ("source", "max_length")),
        ({"thread_id": "t" * 129}, ("thread_id", "max_length")),
        ({"metadata": []}, ("metadata", "invalid")),
        ({"metadata": {"k": "v" * METADATA_MAX_BYTES}}, ("metadata", "max_bytes")),
        ({"metadata": {"k" * METADATA_MAX_BYTES: 1}}, ("metadata", "max_bytes")),
        ({"metadata": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}}}, ("metadata", "max_depth")),
        ({"created_at": "2026-01-01T00:00:00"}, ("created_at", "invalid")),
        ({"created_at": 1735689600}, ("created_at", "invalid")),
    ],
)
def test_a_bad_field_is_422_names_itself_and_stores_nothing(alice, change, error):
    response = alice.post("memory/index", {"doc_id": "d", "text": SENTENCE, **change})
    assert response.status_code == 422, response.content
    assert error in errors_of(response)
    assert alice.get("memory/documents/d").status_code == 404
    assert alice.index("d", SENTENCE).status_code == 201


def test_lone_surrogates_are_422(alice):
    response = alice.post("memory/index", '{"doc_id": "d", "text": "a \\ud800 b"}')
    assert response.status_code == 422
    assert ("text", "invalid") in errors_of(response)


def test_a_missing_field_is_422(alice):
    response = alice.post("memory/index", {"doc_id": "d"})
    assert errors_of(response) == {("text", "required")}


def test_a_text_over_the_limit_is_422_where_the_body_may_be_larger(alice, settings):
    settings.MEMORY_MAX_BODY_BYTES = settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 3_000_000
    response = alice.index("big", "x" * (TEXT_MAX_BYTES + 1))
    assert response.status_code == 422
    assert ("text", "max_bytes") in errors_of(response)


def test_a_text_of_too_many_chunks_is_422_and_says_how_many_there_may_be(alice):
    response = alice.index("long", "word " * 120_000)
    assert response.status_code == 422
    assert response.json()["code"] == "too_many_chunks"
    said = [int(word) for word in response.json()["detail"].split() if word.isdigit()]
    assert said == [CHUNKS_PER_CALL_MAX]
    assert alice.get("memory/documents/long").status_code == 404


def test_doc_ids_that_look_like_attacks_are_stored_and_returned_exactly(alice):
    for doc_id in ["'; set app.user_hash='", "%s %(name)s $1", "\u202eRTL", "zero\u200bwidth", 'quo"te', "a b/c?d#e"]:
        assert alice.index(doc_id, SENTENCE).status_code == 201
    found = {result["doc_id"] for result in alice.query("ferry", top_k=20).json()["results"]}
    assert found == {"'; set app.user_hash='", "%s %(name)s $1", "\u202eRTL", "zero\u200bwidth", 'quo"te', "a b/c?d#e"}
