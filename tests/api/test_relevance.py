"""Nothing relevant is said to be nothing: `relevant` of a query, and a stream's answer."""

import pytest

from memory.retrieval import relevance
from memory.services import query
from memory.services.stream import NOTHING_FOUND
from tests.api.test_stream import events_of, llm, running, stream  # noqa: F401
from tests.factories import DocumentFactory
from tests.llm_server import STATUS_OK, finish, say
from tests.sse import answer_of

pytestmark = pytest.mark.django_db(transaction=True)

NOTES = [
    "The heat pump was serviced in March. Its filter is changed every six months.",
    "The boat lies in the harbour of Wismar over the winter.",
    "The upload failed with ERR_CONN_4711 and was tried again on Monday.",
    "# Measured",
    "Minka, the cat, eats twice a day and must not have milk.",
]
ELSEWHERE = "How tall is Mount Everest?"


@pytest.fixture
def keeper(alice):
    for number, text in enumerate(NOTES):
        DocumentFactory(person=alice, doc_id=f"n{number}", text=text)
    return alice


def ask(person, question: str, **fields) -> dict:
    response = person.query(question, **fields)
    assert response.status_code == 200, response.content
    return response.json()


@pytest.mark.parametrize(
    "question", ["How often is the filter of the heat pump changed?", "Where is the boat?", "ERR_CONN_4711", "the cat"]
)
def test_what_is_remembered_is_relevant(keeper, question):
    assert ask(keeper, question)["relevant"] is True


@pytest.mark.parametrize("question", [ELSEWHERE, "Who painted the Sistine Chapel?", "melting point of tungsten"])
def test_what_nothing_answers_is_not_and_nothing_is_dropped_for_it(keeper, question):
    answer = ask(keeper, question)
    assert answer["relevant"] is False
    assert len(answer["results"]) == 3


def test_min_score_drops_and_the_judgement_stays(keeper):
    answer = ask(keeper, "Where is the boat?", min_score=0.99)
    assert (answer["results"], answer["relevant"]) == ([], True)


def test_who_remembers_nothing_has_nothing_relevant(stranger):
    assert ask(stranger, "anything")["relevant"] is False


def test_filters_narrow_what_is_judged(keeper):
    assert ask(keeper, "Where is the boat?", doc_id="n1")["relevant"] is True
    assert ask(keeper, "Where is the boat?", doc_id="n4")["relevant"] is False


def test_age_has_no_say(alice):
    DocumentFactory(person=alice, doc_id="old", text=NOTES[1])
    asked = {"decay_weight": 1, "half_life_days": 0.01}
    assert ask(alice, "Where is the boat?", **asked)["relevant"] is True


def test_neither_has_how_many_results_are_wanted_nor_reranking(keeper):
    for fields in ({"top_k": 1, "rerank": False}, {"top_k": 5}, {"surroundings": 1}):
        assert ask(keeper, "ERR_CONN_4711", **fields)["relevant"] is True
        assert ask(keeper, ELSEWHERE, **fields)["relevant"] is False


def test_without_words_the_vector_alone_is_judged(keeper, settings):
    settings.MEMORY_LEXICAL = False
    assert ask(keeper, "Where is the boat?")["relevant"] is True
    assert ask(keeper, "What is the melting point of tungsten?")["relevant"] is False


def test_a_stream_says_that_nothing_is_remembered_and_cites_nothing(keeper):
    events = events_of(stream(keeper, ELSEWHERE))
    assert events[0].data["citations"] == []
    assert answer_of(events) == NOTHING_FOUND
    assert events[-1].data["finish_reason"] == "stop"


def test_nor_is_a_model_asked_for_it(keeper, llm):  # noqa: F811
    events = events_of(stream(keeper, ELSEWHERE))
    assert answer_of(events) == NOTHING_FOUND
    assert llm.requests == []


def test_who_remembers_nothing_yet_is_answered_by_the_model(stranger, llm):  # noqa: F811
    llm.plays(STATUS_OK, say("Hello."), finish())
    events = events_of(stream(stranger, "Hi!"))
    assert (events[0].data["citations"], answer_of(events)) == ([], "Hello.")


def test_a_heading_is_never_the_answer(alice):
    DocumentFactory(person=alice, doc_id="page", text="# Measured\n\n## What was measured\n")
    assert answer_of(events_of(stream(alice, "What was measured?"))) == NOTHING_FOUND


def test_the_words_are_counted_once(keeper, monkeypatch):
    """By the search; in a transaction of its own only where the search looked for none."""
    counted, count = [], relevance._counted
    monkeypatch.setattr(relevance, "_counted", lambda *args: counted.append(args) or count(*args))
    assert ask(keeper, ELSEWHERE)["relevant"] is False
    assert not counted
    monkeypatch.setattr(query, "variant_in_use", lambda user_hash: "r0.5")
    stable = ask(keeper, ELSEWHERE)
    assert (stable["variant"], stable["relevant"], len(counted)) == ("r0.5", False, 1)
