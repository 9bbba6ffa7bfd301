"""Two users in two spaces, of two models of different dimensions, served by one process."""

from __future__ import annotations

import pytest
from django.conf import settings

from memory.embedding import process, spaces
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing.search_keys import add_search_key, switch_space
from tests.moving.memories import exported, reindexed, remember_all
from tests.tiny_models import TINY_DIMENSION, build_sentence_model

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

FERRY = "The ferry to the island leaves at nine on weekdays."
CAKE = "Grandmother's cake needs two lemons and a cup of poppy seeds."


@pytest.fixture(scope="module")
def next_model(tmp_path_factory) -> str:
    return str(build_sentence_model(tmp_path_factory.mktemp("next")))


@pytest.fixture
def next_space(next_model, monkeypatch, transactional_db) -> int:
    """The space of a second model, registered, that this process holds beside the first."""
    first = process.get_embedder()
    monkeypatch.setattr(settings, "MEMORY_NEXT_EMBEDDING_MODEL", next_model)
    process.forget_embedders()
    _, second = process.configured_embedders()
    # The first is dear to load: the process keeps the one it has.
    monkeypatch.setattr(process, "_embedders", (process._embedders[0], (first, second)))
    second.load()
    number, is_default = spaces.register_space(second)
    assert not is_default
    yield number
    second.close()
    monkeypatch.undo()
    monkeypatch.setattr(process, "_embedders", (process.os.getpid(), (first,)))
    spaces.forget_spaces()


def enter(person, space: int) -> None:
    with bind_tenant(person.user_hash), tenant_transaction(write=True) as tx:
        add_search_key(tx, space)
        switch_space(tx, space)


def spaces_of(superuser, person) -> set[tuple[int, int]]:
    """(space, dimension) of each of the person's chunks."""
    return set(
        superuser.execute(
            "SELECT space, vector_dims(embedding) FROM memory_chunks WHERE user_hash = %s", [person.user_hash]
        ).fetchall()
    )


def test_users_of_two_models_of_two_dimensions_are_served_side_by_side(alice, bob, superuser, next_space):
    first = spaces.default_space()
    alice.index("ferry", FERRY)
    bob.index("begun", "Bob begins where everybody does.")
    bob.delete("memory/documents/begun")
    enter(bob, next_space)
    assert bob.index("cake", CAKE).status_code == 201
    assert bob.index("ferry", FERRY).status_code == 201
    assert spaces_of(superuser, alice) == {(first, 384)}
    assert spaces_of(superuser, bob) == {(next_space, TINY_DIMENSION)}
    for person, question, expected in ((alice, "When does the ferry leave?", "ferry"), (bob, "poppy seeds", "cake")):
        found = person.query(question).json()["results"]
        assert found[0]["doc_id"] == expected and 0 <= found[0]["scores"]["vector"] <= 1
    assert {each["doc_id"] for each in alice.query("poppy seeds").json()["results"]} == {"ferry"}
    assert bob.get("memory/documents/cake").json()["text"] == CAKE
    summary = bob.post("memory/summarize", {"doc_ids": ["cake", "ferry"]}).json()
    assert summary["stored"] and summary["covers"]["documents"] == 2
    assert {"cake", "ferry"} <= set(exported(bob))
    assert bob.post("memory/erase", {"confirm": bob.user_id}).json()["key_destroyed"]
    assert spaces_of(superuser, bob) == set()
    assert superuser.execute(
        "SELECT count(*) FROM memory_search_keys WHERE user_hash = %s", [bob.user_hash]
    ).fetchone() == (0,)


def test_what_was_stored_in_the_space_before_is_not_mixed_into_an_answer(alice, next_space):
    alice.index("ferry", FERRY)
    enter(alice, next_space)
    alice.index("cake", CAKE)
    assert {each["doc_id"] for each in alice.query("ferry island").json()["results"]} == {"cake"}
    enter(alice, spaces.default_space())
    assert {each["doc_id"] for each in alice.query("ferry island").json()["results"]} == {"ferry"}


def test_a_user_whose_space_no_model_of_the_process_is_of_is_refused_and_nobody_else(
    alice, bob, next_space, monkeypatch
):
    alice.index("ferry", FERRY)
    bob.index("cake", CAKE)
    enter(bob, next_space)
    first = process.configured_embedders()[0]
    monkeypatch.setattr(process, "_embedders", (process.os.getpid(), (first,)))
    refused = bob.query("cake")
    assert (refused.status_code, refused.json()["code"]) == (500, "internal")
    assert bob.index("more", CAKE).status_code == 500
    assert alice.query("ferry").json()["results"][0]["doc_id"] == "ferry"


def test_a_switch_elsewhere_is_noticed_before_a_question_is_compared(alice, next_space):
    alice.index("ferry", FERRY)
    assert alice.query("ferry").json()["results"]
    # As another process does it: this one's cache still has the profile of before.
    enter(alice, next_space)
    assert alice.query("ferry").json()["results"] == []
    assert alice.index("cake", CAKE).status_code == 201
    assert alice.query("cake").json()["results"][0]["doc_id"] == "cake"


def test_a_whole_memory_is_moved_to_another_model_of_another_dimension(alice, superuser, next_space):
    remember_all(alice)
    exports = exported(alice)
    done = reindexed(alice, next_space)
    assert (done.moved, done.failed, done.damaged) == (1, 0, 0)
    dimensions = "SELECT DISTINCT vector_dims(embedding) FROM memory_chunks WHERE user_hash = %s"
    assert superuser.execute(dimensions, [alice.user_hash]).fetchall() == [(TINY_DIMENSION,)]
    found_now = alice.query("heat pump in the cellar", thread_id="kitchen", speaker="anna smith").json()["results"]
    assert found_now[0]["doc_id"] == "turn/3"
    moved = exported(alice)
    assert {doc_id: found["text"] for doc_id, found in moved.items()} == {
        doc_id: found["text"] for doc_id, found in exports.items()
    }
    [berlin] = [each for each in alice.query('"beealices in Berlin"', top_k=1).json()["results"]]
    assert {entity["text"] for entity in berlin["metadata"]["entities"]} >= {"Berlin"}
    assert (
        superuser.execute(
            "SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s", [alice.user_hash]
        ).fetchone()
        == superuser.execute(
            "SELECT count(DISTINCT doc_id), count(*) FROM memory_chunks WHERE user_hash = %s", [alice.user_hash]
        ).fetchone()
    )
