"""Whatever was written, replaced, deleted and taken out and in again, in whatever order: answers as of a clean rebuild.

Hypothesis chooses the order. A rebuild of another user knows the same terms; one of the same user, whose search key is
the same, the same vectors too: there every score and the whole order must be the same to the last bit.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from datetime import datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from memory.retrieval.dates import dates_in
from memory.retrieval.rank import Ranking
from memory.rls import bind_tenant
from memory.services.export import export_documents
from tests.db.conversations import BEGIN, find, look, say
from tests.db.lexicon import remove
from tests.db.memories import DIMENSION, flush_terms
from tests.people import Person

TEXTS = ["the heat pump hums", "yes, last week", "did you see the pump man", "no", "the boat leaks", "pump pump boat",
         "a heat wave and a long walk by the sea", "week after week the same boat"]  # fmt: skip
QUESTIONS = ["heat pump", "when did the boat leak on 1 March", "pump pump week", "nothing of this"]
DOC_IDS = st.sampled_from([f"turn{number}" for number in range(9)])


@dataclass(frozen=True)
class Turn:
    """What was said last under an id; the fields are those of `say`."""

    text: str
    thread: str | None
    minute: int
    sequence: int
    speaker: str | None


TURNS = st.builds(
    Turn,
    st.sampled_from(TEXTS),
    st.sampled_from(["a", "a", "b", None]),
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from([None, "Ada", "Ben"]),
)


def vector_of(text: str) -> np.ndarray:
    """float32[384] of length 1: the same for the same text."""
    vector = np.random.default_rng(TEXTS.index(text)).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def store(person: Person, doc_id: str, turn: Turn) -> None:
    said = {"thread": turn.thread, "minute": turn.minute, "sequence": turn.sequence, "speaker": turn.speaker}
    say(person, doc_id, turn.text, vector=vector_of(turn.text), **said)


def words_of(person: Person) -> list[tuple]:
    """What each question's words score, by themselves and with the neighbours', for each turn that is found."""
    return [
        sorted((doc_id, one.bm25, one.spread_bm25) for (doc_id, _), one in look(person, question).items())
        for question in QUESTIONS
    ]


def answers_of(person: Person) -> list[tuple]:
    """Each question's few answers in order with all their scores, recency apart; the asker is always the same."""
    ranking = Ranking(
        context=True, dates=dates_in(QUESTIONS[1], datetime(2026, 4, 1, tzinfo=BEGIN.tzinfo)), speaker=None,
        half_life_days=30, decay_weight=0, min_vector=None,
    )  # fmt: skip
    answers = []
    for question in QUESTIONS:
        found = find(person, question, limit=3, vector=vector_of(TEXTS[0]))
        ranked = ranking.of(found, len(found)).best
        answers.append([(one.doc_id, one.vector, one.lexical, one.fused, one.context) for one in ranked])
    return answers


class ThreadMachine(RuleBasedStateMachine):
    """The model is a dictionary: document id -> the turn that stands under it."""

    def __init__(self):
        super().__init__()
        self.person = Person.new("threads")
        self.turns: dict[str, Turn] = {}

    @rule(doc_id=DOC_IDS, turn=TURNS)
    def write(self, doc_id, turn):
        store(self.person, doc_id, turn)
        self.turns[doc_id] = turn

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def delete(self, data):
        doc_id = data.draw(st.sampled_from(sorted(self.turns)))
        remove(self.person, doc_id)
        del self.turns[doc_id]

    @precondition(lambda self: self.turns)
    @rule(chunks=st.integers(2, 4))
    def flush(self, chunks):
        flush_terms(self.person, chunks=chunks)

    @precondition(lambda self: self.turns)
    @rule()
    def take_out_and_in_again(self):
        before = answers_of(self.person)
        with bind_tenant(self.person.user_hash):
            exported = list(export_documents().documents)
        assert {document.doc_id: document.text for document in exported} == {
            doc_id: turn.text for doc_id, turn in self.turns.items()
        }
        for doc_id in self.turns:
            remove(self.person, doc_id)
        for document in exported:
            minute = int((document.created_at - BEGIN).total_seconds() // 60)
            turn = Turn(document.text, document.thread_id, minute, document.sequence, document.speaker)
            assert astuple(turn) == astuple(self.turns[document.doc_id])
            store(self.person, document.doc_id, turn)
        assert answers_of(self.person) == before

    def teardown(self):
        if not self.turns:
            return
        clean = Person.new("clean")
        for doc_id, turn in sorted(self.turns.items()):
            store(clean, doc_id, turn)
        assert words_of(self.person) == words_of(clean)


BOUNDED = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.mark.django_db(transaction=True)
def test_whatever_happened_to_a_conversation_it_answers_as_a_clean_rebuild():
    run_state_machine_as_test(ThreadMachine, settings=BOUNDED)
