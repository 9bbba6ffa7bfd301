"""Names, numbers, dates, identifiers and quoted phrases find their exact match through the whole query walk."""

from __future__ import annotations

import time

import pytest

from memory.admission import deadline
from memory.errors import Overloaded
from memory.indexing.seal import DocumentDraft
from memory.retrieval.rank import PHRASE_CANDIDATES, Ranking
from memory.rls import bind_tenant
from memory.services.index import index_document
from memory.services.query import MemoryAnswer, MemoryQuery, query_memory
from tests.db.memories import flush_terms
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

# Passages alike but for one detail in the middle of them: to the model they are nearly one and the same.
BEFORE = (
    "The week went by as most of them do, with the usual calls in the morning, a long meeting about the budget, "
    "lunch in the canteen and a walk along the river when the rain had stopped. In the afternoon it was noted that"
)
AFTER = (
    "Nobody had much to add to that, so the rest of the day went to tidying up the shared folder, answering the "
    "letters that had been lying about since Monday, and planning who takes the early shift before the holidays."
)
NAMES = (
    "Petrenko", "Wanjiru", "Kowalczyk", "Adebayo", "Lindqvist", "Fitzgerald", "Nakamura", "Villanueva", "Mukherjee",
    "Abernathy", "Castellanos", "Oyelaran", "Brannigan", "Hashimoto", "Delacroix", "Vukovic",
)  # fmt: skip
NOTES = {
    "error": [f"the upload failed with ERR_CONN_{4711 + n} and was tried again." for n in range(12)],
    "version": [f"the router runs firmware v2.{n}.3 since the update." for n in range(12)],
    "date": [f"the lease was signed on 2026-01-{n + 11} by both parties." for n in range(12)],
    "name": [f"{name} had called about the kitchen and left a number." for name in NAMES],
    "mail": [f"the signed offer must go to buyer{n}@example.org." for n in range(12)],
    "order": [f"the order 83-{5000 + 37 * n}-22 was still open." for n in range(12)],
}


@pytest.fixture(scope="module")
def diary(database) -> Person:
    """One user with all of these, one document each."""
    person = Person.new("diarist")
    with bind_tenant(person.user_hash):
        for kind, sentences in NOTES.items():
            for number, sentence in enumerate(sentences):
                text = f"{BEFORE} {sentence} {AFTER}"
                index_document(person.user_id, DocumentDraft(f"{kind}-{number:02}", "diary", text))
    return person


def ask(person: Person, question: str, **options) -> MemoryAnswer:
    with bind_tenant(person.user_hash):
        return query_memory(MemoryQuery(question, rerank=False, decay_weight=0.0, **options))


QUESTIONS = {
    "Which upload failed with ERR_CONN_4711?": "error-00",
    "err_conn_4719": "error-08",
    "What about error 4722?": "error-11",
    "Which router has firmware v2.7.3?": "version-07",
    "What was signed on 2026-01-19?": "date-08",
    "When did Lindqvist call?": "name-04",
    "what did MUKHERJEE want": "name-08",
    "Where do I send the offer, buyer11@example.org?": "mail-11",
    "Is 83-5296-22 still open?": "order-08",
}


@pytest.mark.parametrize("in_segments", [False, True])
def test_an_exact_detail_comes_first(diary, in_segments):
    if in_segments:
        assert flush_terms(diary, chunks=50) == 1
    for question, doc_id in QUESTIONS.items():
        answer = ask(diary, question, top_k=1)
        assert [result.doc_id for result in answer.results] == [doc_id], question
        assert answer.results[0].bm25 > 0


def test_without_the_lexical_leg_some_of_them_are_missed(diary, settings):
    """What the leg is for: vectors alone do not answer all of these, so the test above proves something."""
    settings.MEMORY_LEXICAL = False
    first = {question: ask(diary, question, top_k=1).results[0] for question in QUESTIONS}
    assert any(first[question].doc_id != doc_id for question, doc_id in QUESTIONS.items())
    assert all(result.bm25 is result.lexical is None for result in first.values())


def test_a_quoted_phrase_goes_before_passages_that_only_have_its_words(alice):
    texts = {
        "words": "Pump and heat, heat and pump: the heat of the pump, and the pump of the heat again.",
        "phrase": "In spring somebody came by for the Heat\n  Pump in the old house by the lake, among other things.",
        "other": "The garden is in bloom.",
    }
    with bind_tenant(alice.user_hash):
        for doc_id, text in texts.items():
            index_document(alice.user_id, DocumentDraft(doc_id, "notes", text))
    assert ask(alice, "heat pump heat pump").results[0].doc_id == "words"
    quoted = ask(alice, 'heat pump "heat pump"')
    assert [result.phrased for result in quoted.results] == [True, False, False]
    assert quoted.results[0].doc_id == "phrase"
    assert quoted.results[0].text == texts["phrase"]
    assert [r.phrased for r in ask(alice, '"of the heat again" "heat pump"').results] == [False, False, False]


def test_a_phrase_is_looked_for_in_the_best_fifty_and_the_rest_keep_their_order(diary, monkeypatch):
    plain = [result.doc_id for result in ask(diary, "the upload by error buyer", top_k=100).results]
    assert len(plain) > PHRASE_CANDIDATES
    phrase = "with the usual calls"  # each passage holds it
    quoted = ask(diary, f'the upload by error buyer "{phrase}"', top_k=100)
    phrased = [result.phrased for result in quoted.results]
    assert phrased[: PHRASE_CANDIDATES + 1] == [True] * PHRASE_CANDIDATES + [False]
    assert all(result.text and result.metadata is not None for result in quoted.results)

    opened = []
    monkeypatch.setattr("memory.retrieval.open.sealing.open_text", lambda *_args: opened.append(1) or "")
    ask(diary, f'the upload by error buyer "{phrase}"', top_k=1, candidates=100)
    assert len(opened) == PHRASE_CANDIDATES


def test_no_passage_is_opened_once_the_deadline_has_passed(diary, monkeypatch):
    rank = Ranking.of

    def rank_until_too_late(ranking, found, count):
        deadline.allow(0)
        return rank(ranking, found, count)

    monkeypatch.setattr(Ranking, "of", rank_until_too_late)
    monkeypatch.setattr("memory.retrieval.open.Opening.text", lambda *_: pytest.fail("opened too late"))
    for question in ('the upload "with the usual calls"', "the upload"):
        with deadline.counting_from(time.monotonic()), pytest.raises(Overloaded):
            ask(diary, question)


def test_the_walk_with_both_legs_is_still_one_transaction_and_one_search(diary, monkeypatch):
    from memory.rls import TenantTransaction

    statements, queue = [], TenantTransaction._queue

    def counted(self, sql, params, **form):
        statements.append(sql)
        return queue(self, sql, params, **form)

    ask(diary, "warm the caches")
    monkeypatch.setattr(TenantTransaction, "_queue", counted)
    ask(diary, "Which upload failed with ERR_CONN_4711?")
    # The tenant's state, how the rest is planned, what no answer has, the words, the rows that were found and the
    # nearest, what is sealed of them.
    assert len(statements) == 6
    assert sum("memory_lexical_blocks" in sql for sql in statements) == 1
