"""A turn is judged with its neighbours: by the formula over the plaintext, whatever happened on the way there."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import pytest

from memory.embedding.spaces import default_space
from memory.embedding.vectors import half_vectors
from memory.lexical.terms import terms
from memory.retrieval.filters import Filters
from memory.retrieval.plan import explain_candidates, foreign_row_findings
from tests.db.conversations import look, say
from tests.db.lexicon import WEIGHTS, WORDS
from tests.db.memories import flush_terms, unit_vector

pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = "word0 word3 word17 word17"
Place = tuple[str, int]


def plain_spread(threads: Sequence[Sequence[Place]], texts: Mapping[Place, str], question: str) -> dict[Place, float]:
    """BM25 with the neighbours' terms over the terms themselves, of chunks that stand in `threads` in this order."""
    count = {place: terms(text) for place, text in texts.items()}
    mean = sum(chunk.total() for chunk in count.values()) / len(count) * 2.8
    scores = dict.fromkeys(count, 0.0)
    for thread in threads:
        for at, place in enumerate(thread):
            near = [(thread[at + step], weight) for step, weight in
                    ((0, 1.0), (-1, 0.5), (1, 0.5), (-2, 0.4), (2, 0.4)) if 0 <= at + step < len(thread)]  # fmt: skip
            length = sum(weight * count[other].total() for other, weight in near)
            for term, times in terms(question).items():
                holding = sum(1 for chunk in count.values() if chunk[term])
                idf = math.log(1 + (len(count) - holding + 0.5) / (holding + 0.5))
                tf = sum(weight * count[other][term] for other, weight in near)
                scores[place] += times * idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / mean))
    return scores


def spread_scores(found) -> dict[Place, float]:
    return {place: candidate.spread_bm25 for place, candidate in found.items()}


def words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(WORDS, WEIGHTS, k=count))


def store_threads(person, seed: int = 1) -> tuple[list[list[Place]], dict[Place, str]]:
    """Two threads, and documents in none: written in no order, some of several chunks, some of one moment."""
    chance = random.Random(seed)
    turns = [(thread, number) for thread in ("a", "b") for number in range(12)] + [(None, n) for n in range(4)]
    order: dict[str | None, list[tuple]] = {}
    texts: dict[Place, str] = {}
    chance.shuffle(turns)
    for thread, number in turns:
        doc_id = f"{thread}-{chance.randrange(10**6)}"
        minute, sequence = number // 4, (number // 2) % 2
        pieces = [words(chance, chance.randint(3, 20)) + " " for _ in range(2 if number % 5 == 0 else 1)]
        say(person, doc_id, pieces, thread=thread, minute=minute, sequence=sequence)
        for index, piece in enumerate(pieces):
            texts[doc_id, index] = piece
            order.setdefault(thread, []).append((minute, sequence, doc_id, index))
    alone = [[place[2:]] for place in order.pop(None)]
    return [[place[2:] for place in sorted(thread)] for thread in order.values()] + alone, texts


def test_neighbours_count_as_the_formula_over_the_plaintext_says_in_the_clients_own_order(alice):
    threads, texts = store_threads(alice)
    found = spread_scores(look(alice, QUESTION))
    assert found == pytest.approx(plain_spread(threads, texts, QUESTION), abs=1e-6)
    flush_terms(alice, chunks=10)
    assert spread_scores(look(alice, QUESTION)) == found, "in segments to the last bit"


def test_what_a_neighbour_scores_by_itself_is_to_the_bit_what_the_lexical_leg_says(alice):
    store_threads(alice, seed=2)
    flush_terms(alice, chunks=12)
    everything = look(alice, QUESTION, context=False)
    few = look(alice, QUESTION, limit=2)
    assert len(few) > 4, "some of these are neighbours, scored from their frequencies"
    assert {place: one.bm25 for place, one in few.items()} == {place: everything[place].bm25 for place in few}


def test_without_threads_a_search_in_context_is_the_search_that_it_was_to_the_bit(alice):
    chance = random.Random(3)
    for number in range(20):
        say(alice, f"d{number}", [words(chance, 12) + " ", words(chance, 8)], thread=None, minute=number)
    vector = unit_vector()
    plain, found = (look(alice, QUESTION, limit=6, context=context, vector=vector) for context in (False, True))
    assert found == plain != {}
    assert {one.spread_bm25 for one in found.values()} == {None}


def test_up_to_two_places_on_either_side_of_a_candidate_may_be_answers(alice):
    vector = unit_vector()
    for number in range(9):
        say(alice, f"turn{number}", "heat pump" if number == 4 else "yes", minute=number,
            vector=vector if number == 4 else -vector)  # fmt: skip
    assert {doc_id for doc_id, _ in look(alice, "heat pump", limit=1, vector=vector)} == {
        "turn2", "turn3", "turn4", "turn5", "turn6"
    }  # fmt: skip


def test_filters_limit_the_answers_and_not_the_context(alice):
    say(alice, "asked", "the heat pump?", minute=0, source="mail")
    say(alice, "answered", "yes, last week", minute=1)
    found = look(alice, "heat pump", filters=Filters(sources=("chat",)))
    assert set(found) == {("answered", 0)}
    assert found["answered", 0].bm25 == 0 < found["answered", 0].spread_bm25


@pytest.mark.parametrize("is_out", ["quarantined_at = now()", "expires_at = now() - interval '1 second'"])
def test_quarantined_and_expired_rows_are_neither_answers_nor_context(alice, superuser, is_out):
    say(alice, "asked", "the heat pump?", minute=0)
    say(alice, "answered", "yes, last week", minute=1)
    superuser.execute(f"UPDATE memory_chunks SET {is_out} WHERE user_hash = %s AND doc_id = 'asked'", [alice.user_hash])
    for context in (False, True):
        found = look(alice, "heat pump", context=context)
        assert {doc_id for doc_id, _ in found} == {"answered"}
        assert found["answered", 0].spread_bm25 in (None, 0.0)


def test_an_expired_row_between_two_others_is_no_place_in_the_thread(alice, superuser):
    for number in range(5):
        say(alice, f"turn{number}", "heat pump" if number == 0 else "yes", minute=number)
    assert look(alice, "heat pump", limit=50)["turn3", 0].spread_bm25 == 0
    superuser.execute(
        "UPDATE memory_chunks SET expires_at = now() WHERE user_hash = %s AND doc_id = 'turn1'", [alice.user_hash]
    )
    assert look(alice, "heat pump", limit=50)["turn3", 0].spread_bm25 > 0


def test_another_users_thread_of_the_same_id_is_another_thread(alice, bob):
    say(bob, "asked", "the heat pump?", minute=0)
    say(alice, "answered", "yes, last week", minute=1)
    say(alice, "unrelated", "the heat pump is loud", minute=1, thread="elsewhere")
    found = look(alice, "heat pump")
    assert {doc_id for doc_id, _ in found} == {"answered", "unrelated"}
    assert found["answered", 0].spread_bm25 is None, "nobody of alice's stands beside anybody"


def test_the_plan_with_neighbours_visits_this_users_rows_only_in_every_table(alice, bob):
    for person in (alice, bob):
        store_threads(person, seed=5)
        flush_terms(person, chunks=10)
    vector = half_vectors(unit_vector()[None, :])[0]
    plan, owned = explain_candidates(alice.user_hash, default_space(), vector, 24)
    assert foreign_row_findings(plan, alice.user_hash, owned) == []
    assert len(plan.scans("memory_chunks")) >= 4, "either leg, and either side of a candidate"
