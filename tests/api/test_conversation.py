"""Conversations over HTTP: who said what and when moves an answer, and comes and goes with the rest."""

from __future__ import annotations

import json

import pytest
from django.db import connections

from memory import metrics
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing.keyring import existing_profile, forget_profiles
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "backup"])

PLAIN = {"rerank": False, "decay_weight": 0}


def say(person: Person, number: int, speaker: str | None, text: str, *, at: str | None = None, **fields) -> None:
    body = {"thread_id": "t", "created_at": at or f"2023-05-08T10:{number:02}:00Z", **fields}
    if speaker is not None:
        body["speaker"] = speaker
    response = person.index(f"turn{number}", text, **body)
    assert response.status_code in (200, 201), response.content


def ask(person: Person, question: str, **fields) -> list[dict]:
    response = person.query(question, **{"top_k": 10} | PLAIN | fields)
    assert response.status_code == 200, response.content
    return response.json()["results"]


def ids(results: list[dict]) -> list[str]:
    return [result["doc_id"] for result in results]


def scores(results: list[dict]) -> dict[str, dict]:
    return {result["doc_id"]: result["scores"] for result in results}


@pytest.fixture
def chat(alice) -> Person:
    """A conversation of two, and a note in no conversation."""
    say(alice, 1, "Anna Smith", "Did the engineer repair the boiler?")
    say(alice, 2, "Bob Smith", "Yes, last week!")
    say(alice, 3, "Anna Smith", "My favourite dish is mushroom risotto.")
    say(alice, 4, "Bob Smith", "My favourite dish is lentil soup.")
    alice.index("note", "The passport is in the drawer.")
    return alice


# -- Threads


def test_a_neighbour_of_what_was_asked_gains_and_context_says_by_how_much(chat):
    before, after = (scores(ask(chat, "When was the boiler repaired?", context=context)) for context in (False, True))
    assert {one["context"] for one in before.values()} == {None}
    assert after["turn2"]["context"] > 0 and after["turn2"]["fused"] > before["turn2"]["fused"]
    for one in after.values():
        assert -1 <= one["context"] <= 1 and 0 <= one["fused"] <= 1


def test_where_nothing_is_in_a_thread_answers_are_those_without_context_to_the_bit(alice):
    for number, text in enumerate(["The boiler was repaired.", "The engineer came on 8 May.", "The soup was good."]):
        alice.index(f"note{number}", text, created_at=f"2023-05-0{number + 7}T10:00:00Z")
    for question in ("When was the boiler repaired?", "What happened on 8 May 2023?", "soup since yesterday"):
        with_context, without = (ask(alice, question, context=context) for context in (True, False))
        assert with_context == without != []


def test_the_sequence_orders_turns_of_one_moment_and_comes_back(alice):
    for number, text in ((3, "Fine."), (1, "Is the boiler repaired?"), (2, "Yes!"), (4, "Good night."), (5, "Bye.")):
        say(alice, number, None, text, at="2023-05-08T10:00:00Z", sequence=number)
    gained = {doc_id: one["context"] for doc_id, one in scores(ask(alice, "boiler repaired")).items()}
    assert gained["turn2"] > gained["turn3"] > gained["turn4"]
    assert alice.get("memory/documents/turn3").json()["sequence"] == 3
    listed = alice.get("memory/documents").json()["results"]
    assert {document["doc_id"]: document["sequence"] for document in listed}["turn4"] == 4


@pytest.mark.parametrize("sequence", [-1, 2**31, 1.5, "1", True])
def test_a_sequence_is_a_whole_number_of_31_bits(alice, sequence):
    response = alice.index("d", "x", sequence=sequence)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "sequence"


# -- Dates


@pytest.fixture
def diary(alice) -> Person:
    """The same said once a month: only the date can tell the turns apart."""
    for month in range(1, 7):
        say(alice, month, None, "We went to the lake.", at=f"2023-{month:02}-15T10:00:00Z", thread_id=f"t{month}")
    return alice


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("When did we go to the lake in March?", "turn3"),
        ("Did we go to the lake on 15 May 2023?", "turn5"),
        ("Did we go to the lake last month?", "turn5"),
        ("Did we go to the lake yesterday?", "turn6"),
        ("Did we go to the lake between January 10 and 20 January 2023?", "turn1"),
    ],
)
def test_a_date_in_the_question_prefers_what_was_said_then_and_filters_nothing(diary, question, best):
    results = ask(diary, question, now="2023-06-16T12:00:00+02:00")
    assert results[0]["doc_id"] == best
    assert len(results) == 6
    assert 0.1 < results[0]["scores"]["context"] < 0.2001, "less than 0.2 where the score has come to 1"
    assert ask(diary, question, now="2023-06-16T12:00:00Z", context=False)[0]["scores"]["context"] is None


def test_scores_stay_below_1_where_a_date_lifts_them_and_their_order_stays_too(diary):
    say(diary, 7, None, "We went to the lake in March 2023.", at="2023-03-15T10:00:00Z", thread_id="t7")
    results = ask(diary, "We went to the lake in March 2023.", decay_weight=0.2)
    assert results[0]["doc_id"] == "turn7"
    for result in results:
        assert 0 <= result["scores"]["decay"] <= result["scores"]["fused"] <= 1
    assert results[0]["scores"]["fused"] == 1


def test_the_present_is_an_rfc_3339_moment(alice):
    assert alice.query("x", now="yesterday").status_code == 422


# -- Speakers


def test_a_question_about_one_speaker_prefers_what_that_one_said(chat):
    for name, best, other in (("Anna", "turn3", "turn4"), ("bob smith", "turn4", "turn3")):
        results = ask(chat, f"What is {name}'s favourite dish?")
        assert results[0]["doc_id"] == best
        found = scores(results)
        assert found[other]["context"] < -0.1 < found["note"]["context"], "nobody is known to have said the note"


@pytest.mark.parametrize(
    "question",
    [
        "What is Anna's and Bob's favourite dish?",  # two of them
        "What is Smith's favourite dish?",  # either of them
        "Does anna like risotto as a favourite dish?",  # not written as a name
        "What did Anna tell me about a favourite dish?",  # about the asker too
        "What do I like, Anna?",
        "What is Carla's favourite dish?",  # nobody known
    ],
)
def test_a_question_that_does_not_name_exactly_one_speaker_or_says_i_prefers_nobody(chat, question):
    assert min(one["context"] for one in scores(ask(chat, question)).values()) > -0.1


def test_a_name_that_is_a_common_word_needs_a_capital_and_must_not_begin_the_question(alice):
    say(alice, 1, "Will", "My favourite dish is risotto.")
    say(alice, 2, "Bob", "My favourite dish is soup.")
    assert scores(ask(alice, "What dish does Will like?"))["turn2"]["context"] < -0.1
    for question in ("Will there be a favourite dish?", "What favourite dish will there be?"):
        assert min(one["context"] for one in scores(ask(alice, question)).values()) > -0.1


def test_each_result_says_who_said_it_and_questions_are_narrowed_to_a_speaker(chat):
    by = {result["doc_id"]: result.get("speaker") for result in ask(chat, "favourite dish")}
    assert by["turn3"] == "Anna Smith" and by["turn4"] == "Bob Smith" and by["note"] is None
    for spelled in ("Bob Smith", "bob  smith", "BOB-SMITH"):
        assert set(ids(ask(chat, "favourite dish", speaker=spelled))) == {"turn2", "turn4"}
    assert ask(chat, "favourite dish", speaker="Bob") == []
    assert ask(chat, "favourite dish", speaker="!") == []


def test_what_a_speaker_is_narrowed_to_is_still_judged_with_what_others_said(chat):
    [answer] = ask(chat, "When was the boiler repaired?", speaker="Bob Smith", top_k=1)
    assert answer["doc_id"] == "turn2" and answer["scores"]["lexical"] == 0 < answer["scores"]["context"]


def test_a_name_is_stored_sealed_and_its_id_is_nobody_elses(chat, bob, superuser):
    say(bob, 1, "Anna Smith", "Hello.")
    stored = [
        superuser.execute(
            "SELECT speaker, speaker_cipher FROM memory_documents WHERE user_hash = %s AND speaker IS NOT NULL",
            [person.user_hash],
        ).fetchall()
        for person in (chat, bob)
    ]
    assert not {speaker for speaker, _ in stored[0]} & {speaker for speaker, _ in stored[1]}
    assert len({speaker for speaker, _ in stored[0]}) == 2
    assert all(b"Smith" not in bytes(blob) for rows in stored for _, blob in rows)


@pytest.mark.parametrize("column", ["speaker_cipher", "chunk's speaker"])
def test_a_name_that_was_tampered_with_fails_closed_once_and_is_set_aside(chat, superuser, column):
    swapped = {
        "speaker_cipher": "UPDATE memory_documents SET speaker_cipher = (SELECT speaker_cipher FROM memory_documents"
        " WHERE user_hash = %(u)s AND doc_id = 'turn4') WHERE user_hash = %(u)s AND doc_id = 'turn3'",
        "chunk's speaker": "UPDATE memory_chunks SET speaker = speaker + 1 WHERE user_hash = %(u)s"
        " AND doc_id = 'turn3'",
    }[column]
    superuser.execute(swapped, {"u": chat.user_hash})
    before = metrics.decrypt_failed.labels("speaker_cipher")._value.get()
    assert chat.query("mushroom risotto").status_code == 500
    assert metrics.decrypt_failed.labels("speaker_cipher")._value.get() > before
    answer = chat.query("mushroom risotto").json()
    assert answer["degraded"] == ["quarantined"]
    assert "turn3" not in ids(answer["results"])
    assert chat.get("memory/documents").status_code == 200


def test_an_export_is_taken_back_by_index_with_order_and_speakers(chat, bob):
    chat.index("turn5", "See you.", thread_id="t", sequence=7, created_at="2023-05-08T10:04:00Z", speaker=" Zoë ")
    lines = b"".join(chat.get("memory/export").streaming_content).decode().splitlines()
    for line in lines:
        assert bob.post("memory/index", line).status_code == 201
    again = b"".join(bob.get("memory/export").streaming_content).decode().splitlines()
    assert sorted(map(json.loads, again), key=str) == sorted(map(json.loads, lines), key=str)
    assert next(one for one in map(json.loads, lines) if one["doc_id"] == "turn5")["speaker"] == " Zoë "
    for question in (
        "When was the boiler repaired?",
        "What is Anna's favourite dish?",
        "What did they do in May 2023?",
    ):
        theirs, ours = (ask(person, question, top_k=6) for person in (bob, chat))
        assert ids(theirs) == ids(ours)
        assert [one["score"] for one in theirs] == pytest.approx([one["score"] for one in ours], abs=2e-3)


def test_the_last_document_of_a_speaker_takes_the_speaker_along_and_a_new_one_is_known_at_once(chat):
    def known() -> set[int]:
        forget_profiles()
        with bind_tenant(chat.user_hash):
            return set(existing_profile(chat.user_hash).speakers)

    both = known()
    assert len(both) == 2
    assert scores(ask(chat, "What is Anna's favourite dish?"))["turn4"]["context"] < -0.1
    chat.delete("memory/documents/turn1")
    assert known() == both
    say(chat, 3, None, "My favourite dish is mushroom risotto.")
    [left] = known()
    assert scores(ask(chat, "What is Anna's favourite dish?"))["turn4"]["context"] > -0.1, "nobody is called so now"
    say(chat, 3, "Anna Smith", "My favourite dish is mushroom risotto.")
    assert known() == both != {left}
    assert scores(ask(chat, "What is Anna's favourite dish?"))["turn4"]["context"] < -0.1


def test_a_profile_that_another_process_cached_learns_of_a_new_speaker(chat):
    with bind_tenant(chat.user_hash):
        cached = existing_profile(chat.user_hash)
    say(chat, 8, "Carla", "My favourite dish is cake.")
    with tenant_transaction(chat.user_hash) as tx:
        assert tx.state().profile != cached.version
    connections["default"].close()
    assert scores(ask(chat, "What is Carla's favourite dish?"))["turn4"]["context"] < -0.1


def test_an_erasure_takes_speakers_along(chat, superuser):
    assert chat.post("memory/erase", {"confirm": chat.user_id}).status_code == 200
    left = "SELECT count(*) FROM memory_documents WHERE user_hash = %s"
    assert superuser.execute(left, [chat.user_hash]).fetchone() == (0,)
    say(chat, 1, None, "My favourite dish is soup.")
    assert "speaker" not in ask(chat, "What is Anna's favourite dish?")[0]


@pytest.mark.parametrize("speaker", ["", "x" * 129, "a\nb", 7])
def test_a_speaker_is_a_name_of_up_to_128_characters(alice, speaker):
    assert alice.index("d", "x", speaker=speaker).status_code == 422
    assert alice.query("x", speaker=speaker).status_code == 422
