"""A searchable vector of a wrong dimension, which the database would take, costs its user one passage and no query."""

from __future__ import annotations

import numpy as np
import pytest
from pgvector import HalfVector

from memory.services import query as service
from tests.security.test_sealing import HEATING, PASSPORT, QUESTION, chunk, failures, remember

pytestmark = pytest.mark.django_db(transaction=True)

MISFITS = {"short": [1.0] * 3, "one more": [0.05] * 385, "none at all": [1.0]}


def quarantined(superuser, person) -> set[str]:
    rows = superuser.execute(
        "SELECT doc_id FROM memory_chunks WHERE user_hash = %s AND quarantined_at IS NOT NULL", [person.user_hash]
    )
    return {doc_id for (doc_id,) in rows.fetchall()}


@pytest.mark.parametrize("values", MISFITS.values(), ids=MISFITS)
@pytest.mark.parametrize("lexical", [True, False], ids=["both legs", "one leg"])
def test_its_row_is_quarantined_and_the_others_are_served(alice, bob, superuser, settings, values, lexical):
    settings.MEMORY_LEXICAL = lexical
    remember(alice, heating=HEATING, passport=PASSPORT)
    remember(bob, heating=HEATING)
    chunk(superuser, alice, "heating")["embedding"] = str(values)
    before = failures("embedding")
    for _ in range(2):
        answer = alice.query(QUESTION)
        assert answer.status_code == 200, answer.content
        assert [found["text"] for found in answer.json()["results"]] == [PASSPORT]
        assert answer.json()["degraded"] == ["quarantined"]
    assert quarantined(superuser, alice) == {"heating"}
    assert failures("embedding") == before + 1
    assert (bob.query(QUESTION).json()["degraded"], quarantined(superuser, bob)) == ([], set())


def test_where_no_row_fits_the_answer_is_empty_and_says_so(alice, superuser):
    remember(alice, heating=HEATING)
    chunk(superuser, alice, "heating")["embedding"] = "[1,2,3]"
    answer = alice.query(QUESTION).json()
    assert (answer["results"], answer["degraded"]) == ([], ["quarantined"])


def test_a_summary_leaves_it_out_and_says_so(alice, superuser):
    remember(alice, heating=HEATING, passport=PASSPORT)
    chunk(superuser, alice, "heating")["embedding"] = "[1,2,3]"
    summary = alice.post("memory/summarize", {"doc_ids": ["heating", "passport"], "store": False})
    assert summary.status_code == 200, summary.content
    assert summary.json()["summary"] == PASSPORT
    assert summary.json()["degraded"] == ["quarantined"]
    assert quarantined(superuser, alice) == {"heating"}


def test_writing_its_document_again_heals_it(alice, superuser):
    remember(alice, heating=HEATING)
    chunk(superuser, alice, "heating")["embedding"] = "[1,2,3]"
    assert alice.query(QUESTION).json()["results"] == []
    assert alice.index("heating", HEATING).status_code == 200
    answer = alice.query(QUESTION).json()
    assert (answer["results"][0]["text"], answer["degraded"]) == (HEATING, [])


def test_a_question_of_the_wrong_dimension_is_an_error_and_quarantines_nothing(alice, superuser, monkeypatch):
    remember(alice, heating=HEATING)
    monkeypatch.setattr(service, "half_vectors", lambda units: [HalfVector(np.ones(3))])
    answer = alice.query(QUESTION)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert quarantined(superuser, alice) == set()
