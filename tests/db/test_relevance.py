"""What a question's words weigh, counted under blind ids, is what plaintext would say; and what it is weighed with."""

import math

import numpy as np
import pytest

from memory.lexical.bm25 import LexicalQuery, lexical_query
from memory.lexical.lookup import Lookup
from memory.lexical.terms import terms
from memory.retrieval import relevance
from memory.retrieval.relevance import COVERAGE_WEIGHT, EVIDENCE_MIN, Evidence, _coverage
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing.keyring import existing_profile
from tests.db.lexicon import random_texts, remove, store
from tests.db.memories import flush_terms
from tests.unit.test_ranking import found

pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = "word0 word3 word3 word40 word200 unheard"


def plain_coverage(texts: dict[str, list[str]], question: str, passages: list[str]) -> float:
    chunks = [terms(passage).keys() for document in texts.values() for passage in document]
    held = set().union(*(terms(passage) for passage in passages))
    idf = {}
    for term in terms(question):
        df = sum(term in chunk for chunk in chunks)
        idf[term] = math.log(1 + (len(chunks) - df + 0.5) / (df + 0.5))
    return sum(weight for term, weight in idf.items() if term in held) / sum(idf.values())


def coverage(person, question: str, passages: list[str]) -> float | None:
    """By counts of its own, and by those of a search, which are the same."""
    with bind_tenant(person.user_hash):
        profile = existing_profile(person.user_hash)
        idf = None
        if words := lexical_query(profile.search_key, question, "english").ids:
            with tenant_transaction() as tx:
                idf = Lookup(tx, profile.space, LexicalQuery(words, (1,) * len(words))).hits().idf()
        assert _coverage(profile, question, passages, idf) == _coverage(profile, question, passages)
        return _coverage(profile, question, passages)


@pytest.mark.parametrize("segments", [False, True], ids=["memtable", "segments"])
def test_coverage_is_that_of_the_plaintext_wherever_the_terms_are_stored(alice, bob, segments):
    texts = random_texts(3, 30)
    for doc_id, passages in texts.items():
        store(alice, doc_id, passages)
    store(bob, "d", ["unheard unheard"])
    if segments:
        assert flush_terms(alice, chunks=8)
    remove(alice, "d001")
    del texts["d001"]
    best = [passage for doc_id in ("d003", "d005") for passage in texts[doc_id]]
    expected = plain_coverage(texts, QUESTION, best)
    assert 0 < expected < 1
    assert coverage(alice, QUESTION, best) == pytest.approx(expected)
    assert coverage(alice, QUESTION, []) == 0


def test_a_question_without_words_has_no_coverage(alice, settings):
    store(alice, "d", ["heat pump"])
    assert coverage(alice, "what is the", ["heat pump"]) is None
    settings.MEMORY_LEXICAL = False
    assert coverage(alice, "heat pump", ["heat pump"]) is None


def test_where_nothing_is_left_nothing_is_covered(alice):
    store(alice, "d", ["heat pump"])
    remove(alice, "d")
    assert coverage(alice, "heat pump", ["heat pump"]) == 0


def test_the_words_tip_the_scales_only_where_the_cosine_leaves_a_doubt(alice, monkeypatch):
    store(alice, "d", ["heat pump"])
    profile = existing_profile(alice.user_hash)

    def judged(cosine: float, text: str) -> bool:
        with bind_tenant(alice.user_hash):
            evidence = Evidence.of(found(cosine), np.array([0.5]))
            evidence.passages[0].text = text
            return evidence.is_enough(profile, "heat pump")

    between = EVIDENCE_MIN - COVERAGE_WEIGHT / 3
    assert [judged(between, text) for text in ("heat pump", "heat", "pear tree")] == [True, True, False]
    assert [judged(0.0, text) for text in ("heat pump", "heat", "pear tree")] == [True, False, False]

    def counted(*args):
        raise AssertionError("the words were counted")

    monkeypatch.setattr(relevance, "_coverage", counted)
    assert judged(EVIDENCE_MIN + 0.001, "pear tree")
    with pytest.raises(AssertionError):
        judged(between, "heat pump")


def test_the_best_passages_are_the_best_as_fused_and_the_cosine_is_of_them_all():
    evidence = Evidence.of(found(*[0.1] * 6, 0.8), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.0]))
    assert [passage.doc_id for passage in evidence.passages] == ["d4", "d3", "d2"]
    assert evidence.cosine == pytest.approx(0.8)
    assert evidence.is_doubtful is False
