"""The main job over the API: remember, ask, be cited, and nobody else sees anything."""

import pytest

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = "The heat pump in the cellar was serviced in March. Its filter is changed every six months."


def test_a_user_finds_what_they_stored_cited_to_the_character(alice):
    indexed = alice.index("notes/heating", TEXT, source="notes", metadata={"room": "cellar"})
    assert indexed.status_code == 201, indexed.content
    assert indexed.json()["chunks"] == 1

    answer = alice.query("When was the heat pump serviced?")
    assert answer.status_code == 200, answer.content
    [result] = answer.json()["results"]
    assert result["citation"] == {
        "doc_id": "notes/heating", "chunk_index": 0, "start": 0, "end": len(TEXT), "quote": TEXT,
    }  # fmt: skip
    assert result["metadata"] == {"room": "cellar"}
    assert result["chunk_id"] == indexed.json()["chunk_ids"][0]


def test_another_user_finds_nothing(alice, bob):
    alice.index("notes/heating", TEXT)
    assert len(alice.query("heat pump").json()["results"]) == 1
    assert bob.query("heat pump").json()["results"] == []


def test_what_a_user_erases_is_found_no_more_and_the_next_memory_is_empty(alice, bob):
    for person in (alice, bob):
        person.index("notes/heating", TEXT)
    erased = alice.post("memory/erase", {"confirm": alice.user_id})
    assert erased.status_code == 200, erased.content
    assert (erased.json()["erased_documents"], erased.json()["key_destroyed"]) == (1, True)
    assert alice.query("heat pump").json()["results"] == []
    assert alice.get("memory/documents/notes/heating").status_code == 404
    assert len(bob.query("heat pump").json()["results"]) == 1
