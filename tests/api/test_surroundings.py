"""`surroundings` of POST /memory/query: what stands beside each result, cited, the user's own and nobody else's."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.factories import DocumentFactory

pytestmark = pytest.mark.django_db(transaction=True)

SAID = ["Shall we talk about the house?", "Gladly.", "Did you ever see the heat pump man?", "Yes, last week!", "And?",
        "He changed the filter."]  # fmt: skip
MORNING = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)


def talk(person, thread: str, texts: list[str], *, prefix: str = "turn") -> None:
    """One document a turn, a minute apart, stored in an order that has nothing to do with it."""
    for number in sorted(range(len(texts)), key=lambda n: n * 7 % 5):
        DocumentFactory(
            person=person, doc_id=f"{prefix}/{number}", source="chat", thread_id=thread, text=texts[number],
            created_at=MORNING + timedelta(minutes=number),
        )  # fmt: skip


def ask(person, question: str, **fields) -> dict:
    response = person.query(question, **fields)
    assert response.status_code == 200, response.content
    return response.json()


def texts(passages: list[dict]) -> list[str]:
    return [passage["text"] for passage in passages]


def first(answer: dict) -> dict:
    return answer["results"][0]


def test_a_turn_comes_with_those_around_it_in_the_threads_order(alice):
    talk(alice, "t1", SAID)
    result = first(ask(alice, "heat pump man", surroundings=2))
    assert result["text"] == SAID[2]
    assert (texts(result["before"]), texts(result["after"])) == (SAID[:2], SAID[3:5])
    assert [passage["created_at"] for passage in result["after"]] == ["2026-03-05T09:03:00Z", "2026-03-05T09:04:00Z"]


def test_each_has_a_citation_of_its_own(alice):
    talk(alice, "t1", SAID)
    after = first(ask(alice, "heat pump man", surroundings=1))["after"][0]
    assert after["citation"] == {
        "doc_id": "turn/3", "chunk_index": 0, "start": 0, "end": len(SAID[3]), "quote": SAID[3],
    }  # fmt: skip


def test_turns_of_one_moment_stand_by_sequence_and_then_by_document(alice):
    for doc_id, sequence, text in [("z", 1, "One."), ("b", 2, "The heat pump."), ("c", 2, "Three."), ("a", 9, "Four.")]:
        DocumentFactory(
            person=alice, doc_id=doc_id, thread_id="t", text=text, created_at=MORNING, sequence=sequence
        )  # fmt: skip
    result = first(ask(alice, "heat pump", surroundings=3))
    assert (texts(result["before"]), texts(result["after"])) == (["One."], ["Three.", "Four."])


def test_without_a_thread_the_chunks_of_the_same_document_stand_beside_it(alice):
    text = " ".join(f"On day {n} of the voyage the keeper wrote that the sea was calm and grey." for n in range(120))
    DocumentFactory(person=alice, doc_id="log", text=text)
    DocumentFactory(person=alice, doc_id="log2", text="On another day the keeper of the other log slept.")
    results = ask(alice, "what the keeper wrote", doc_id="log", surroundings=1, top_k=10)["results"]
    count = len(results)
    assert count >= 4
    for result in results:
        beside = [*result["before"], *result["after"]]
        places = [index for index in (result["chunk_index"] - 1, result["chunk_index"] + 1) if 0 <= index < count]
        assert [(passage["citation"]["doc_id"], passage["citation"]["chunk_index"]) for passage in beside] == [
            ("log", index) for index in places
        ]
        for passage in beside:
            assert text[passage["citation"]["start"] : passage["citation"]["end"]] == passage["text"]


def test_who_does_not_ask_gets_none(alice):
    talk(alice, "t1", SAID)
    assert not {"before", "after"} & first(ask(alice, "heat pump man")).keys()
    assert not {"before", "after"} & first(ask(alice, "heat pump man", surroundings=0)).keys()


def test_the_first_and_the_last_turn_have_a_side_without_any(alice):
    talk(alice, "t1", SAID)
    assert first(ask(alice, SAID[0], surroundings=1))["before"] == []
    assert first(ask(alice, SAID[5], surroundings=1))["after"] == []


def test_surroundings_change_neither_the_results_nor_their_scores(alice):
    talk(alice, "t1", SAID)
    bare, with_them = (ask(alice, "heat pump man", surroundings=n, decay_weight=0) for n in (0, 3))
    for result in with_them["results"]:
        del result["before"], result["after"]
    assert with_them["results"] == bare["results"]
    assert with_them["candidates"] == bare["candidates"]


def test_filters_limit_what_is_found_and_not_what_stands_beside_it(alice):
    talk(alice, "t1", SAID)
    result = first(ask(alice, "heat pump man", doc_id="turn/2", since="2026-03-05T09:02:00Z", surroundings=1))
    assert (texts(result["before"]), texts(result["after"])) == (["Gladly."], ["Yes, last week!"])


def test_another_users_thread_of_the_same_name_never_meets_ones_own(alice, bob):
    talk(alice, "t1", SAID)
    talk(bob, "t1", ["The heat pump of Bob hums."])
    talk(bob, "t1", ["Nobody but Bob.", "Reads this."], prefix="more")
    result = first(ask(alice, "heat pump man", surroundings=3))
    assert (texts(result["before"]), texts(result["after"])) == (SAID[:2], SAID[3:])
    of_bob = first(ask(bob, "The heat pump of Bob", surroundings=3))
    assert set(texts([*of_bob["before"], *of_bob["after"]])) == {"Nobody but Bob.", "Reads this."}


def test_quarantined_and_expired_turns_are_passed_over(alice, superuser):
    talk(alice, "t1", SAID)
    for column, doc_id in (("quarantined_at", "turn/1"), ("expires_at", "turn/3")):
        superuser.execute(
            f"UPDATE memory_chunks SET {column} = now() WHERE user_hash = %s AND doc_id = %s", [alice.user_hash, doc_id]
        )
    result = first(ask(alice, "heat pump man", surroundings=1))
    assert (texts(result["before"]), texts(result["after"])) == (SAID[:1], ["And?"])


def test_a_turn_that_does_not_open_fails_the_query_once_and_is_set_aside(alice, superuser):
    talk(alice, "t1", SAID)
    superuser.execute(
        "UPDATE memory_chunks SET text_cipher = set_byte(text_cipher, 20, get_byte(text_cipher, 20) # 1)"
        " WHERE user_hash = %s AND doc_id = 'turn/3'",
        [alice.user_hash],
    )
    failed = alice.query("heat pump man", top_k=1, rerank_pool=1, surroundings=1)
    assert (failed.status_code, failed.json()["code"]) == (500, "decryption_failed")
    again = ask(alice, "heat pump man", top_k=1, surroundings=1)
    assert again["degraded"] == ["quarantined"]
    assert texts(first(again)["after"]) == ["And?"]


def test_a_quoted_phrase_brings_its_surroundings_too(alice):
    talk(alice, "t1", SAID)
    result = first(ask(alice, '"changed the filter"', surroundings=1, top_k=1))
    assert (result["text"], texts(result["before"])) == (SAID[5], ["And?"])


@pytest.mark.parametrize("fields", [{"top_k": 22, "surroundings": 3}, {"top_k": 31, "surroundings": 2}])
def test_an_answer_holds_150_passages_at_most(stranger, fields):
    refused = stranger.query("anything", **fields)
    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert (error["field"], error["code"]) == ("surroundings", "max_value")
    assert "150" in error["detail"]


@pytest.mark.parametrize("fields", [{"top_k": 50, "surroundings": 1}, {"top_k": 21, "surroundings": 3}])
def test_up_to_150_are_answered(stranger, fields):
    assert stranger.query("anything", **fields).status_code == 200


@pytest.mark.parametrize("count", [-1, 4, "1", 1.5, True])
def test_a_bad_count_is_422(stranger, count):
    assert stranger.query("anything", surroundings=count).status_code == 422
