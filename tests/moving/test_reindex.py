"""A user's memory in another space is the one that it was, and nothing of the space before is left."""

from __future__ import annotations

import pytest
from django.conf import settings

from memory.embedding import spaces
from memory.embedding.process import get_embedder
from tests.moving.memories import answers, exported, listed, reindexed, repeat, rows_by_space

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


def found(person) -> list:
    return [(each["chunk_id"], each["scores"]["vector"]) for each in person.query("ferry").json()["results"]]


def counts(superuser, person) -> tuple:
    """What the person's row says of him, beside what there is."""
    return superuser.execute(
        "SELECT active_space, document_count, chunk_count,"
        " (SELECT count(*) FROM memory_documents d WHERE d.user_hash = t.user_hash),"
        " (SELECT count(*) FROM memory_chunks c WHERE c.user_hash = t.user_hash),"
        " (SELECT sum(chunk_count) FROM memory_documents d WHERE d.user_hash = t.user_hash)"
        " FROM memory_tenants t WHERE user_hash = %s",
        [person.user_hash],
    ).fetchone()


def test_a_new_search_key_changes_no_answer(keeper, superuser, another_edition):
    before, exports, listing, answered = answers(keeper), exported(keeper), listed(keeper), repeat(keeper).content
    embeddings = "SELECT embedding::text FROM memory_chunks WHERE user_hash = %s"
    searched_by = set(superuser.execute(embeddings, [keeper.user_hash]).fetchall())

    done = reindexed(keeper, another_edition)

    assert (done.moved, done.failed, done.damaged) == (1, 0, 0)
    assert answers(keeper) == before and all(before)
    assert (exported(keeper), listed(keeper)) == (exports, listing)
    assert repeat(keeper).content == answered
    assert searched_by.isdisjoint(superuser.execute(embeddings, [keeper.user_hash]).fetchall())
    spaces_left = set().union(*rows_by_space(superuser, keeper).values())
    assert spaces_left == {another_edition}
    space, documents, chunks, *there, listed_chunks = counts(superuser, keeper)
    assert (space, [documents, chunks], listed_chunks) == (another_edition, there, chunks)


@pytest.mark.parametrize(
    "changed", [{"MEMORY_CHUNK_TOKENS": 64, "MEMORY_CHUNK_OVERLAP": 8}, {"MEMORY_EMBEDDING_PROTECTION": "none"}]
)
def test_new_settings_of_chunks_or_protection_are_those_of_a_new_space_and_of_nobody_before(
    keeper, bob, superuser, monkeypatch, changed
):
    bob.index("ferry", "The ferry leaves at nine.")
    before, bobs = exported(keeper), found(bob)
    for name, value in changed.items():
        monkeypatch.setattr(settings, name, value)
    space, _ = spaces.register_space(get_embedder())
    # Who is not there yet is served as before, under the settings of now.
    assert found(bob) == bobs
    assert bob.index("more", "word " * 300).json()["chunks"] == 1

    done = reindexed(keeper, space)

    assert (done.moved, done.failed, done.damaged) == (1, 0, 0)
    after = exported(keeper)
    assert {doc_id: found["text"] for doc_id, found in after.items()} == {
        doc_id: found["text"] for doc_id, found in before.items()
    }
    assert keeper.query("heat pump in the cellar").json()["results"][0]["doc_id"] == "turn/3"
    if "MEMORY_CHUNK_TOKENS" in changed:
        assert counts(superuser, keeper)[2] > counts(superuser, keeper)[1]
        assert keeper.index("more", "word " * 300).json()["chunks"] > 1
    _, documents, chunks, *there, listed_chunks = counts(superuser, keeper)
    assert ([documents, chunks], listed_chunks) == (there, chunks)


def test_who_is_moved_back_and_forth_keeps_his_memory(keeper, superuser, another_edition):
    before, home = answers(keeper), spaces.default_space()
    assert reindexed(keeper, another_edition).moved == reindexed(keeper, home).moved == 1
    assert answers(keeper) == before
    assert set().union(*rows_by_space(superuser, keeper).values()) == {home}


def test_who_is_there_is_left_alone(keeper):
    done = reindexed(keeper, spaces.default_space())
    assert (done.users, done.moved, done.done.documents) == (0, 0, 0)


def test_whose_rows_do_not_open_stays_where_he_is_and_is_told_of(keeper, bob, superuser, another_edition):
    bob.index("ferry", "The ferry leaves at nine.")
    superuser.execute(
        "UPDATE memory_chunks SET text_cipher = text_cipher || 'x' WHERE user_hash = %s AND doc_id = 'turn/1'",
        [keeper.user_hash],
    )
    done = reindexed(keeper, another_edition)
    assert (done.moved, done.damaged) == (0, 1)
    assert counts(superuser, keeper)[0] == spaces.default_space()
    assert keeper.query("heat pump").json()["results"]
    # Written anew the document is whole, and the next run moves him.
    keeper.index("turn/1", "Where did you put the passport?")
    assert reindexed(keeper, another_edition).moved == 1
    assert counts(superuser, keeper)[0] == another_edition
