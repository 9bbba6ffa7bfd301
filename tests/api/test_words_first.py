"""A question's words are looked up while the model embeds it, where nobody else waits for the model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from memory.embedding.embedder import Embedder
from memory.embedding.process import get_embedder
from memory.errors import Overloaded
from memory.lexical.lookup import Lookup
from tests.db.server import connect
from tests.tiny_models import wait_until

pytestmark = pytest.mark.django_db(transaction=True)

QUESTION = "When does the boiler engineer come?"
TEXTS = {
    "boiler": "The boiler engineer comes on Thursday morning.",
    "bread": "Bread rises better with cold water and patience.",
    "train": "The train to Gdansk was two hours late again.",
}
# Of a hang: what is waited for here takes milliseconds.
SECONDS = 60


@pytest.fixture
def library(alice):
    for doc_id, text in TEXTS.items():
        assert alice.index(doc_id, text).status_code == 201
    return alice


@pytest.fixture
def model(monkeypatch):
    """The model held before each text until `may_embed`; it notes in `seen` what happens in which order."""

    model = SimpleNamespace(seen=[], may_embed=threading.Event(), entered=threading.Event())
    queue, hits = get_embedder()._queue, Lookup.hits
    encode = queue._encode

    def held(task, texts):
        model.entered.set()
        assert model.may_embed.wait(SECONDS), "the model was held for ever"
        rows = encode(task, texts)
        model.seen += ["embedded"] * len(texts)
        return rows

    def looked_up(lookup):
        found = hits(lookup)
        model.seen.append("looked up")
        return found

    monkeypatch.setattr(queue, "_encode", held)
    monkeypatch.setattr(Lookup, "hits", looked_up)
    yield model
    model.may_embed.set()


def answer_of(response) -> dict:
    assert response.status_code == 200, response.content
    return {name: part for name, part in response.json().items() if name != "took_ms"}


def in_transaction() -> int:
    """Of r1_app's connections to this database."""
    with connect("postgres") as superuser:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'r1_app' AND state LIKE 'idle in transaction%'"
        return superuser.execute(asked).fetchone()[0]


def test_the_words_are_looked_up_before_the_vector_is_there(library, model):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(library.query, QUESTION)
        wait_until(lambda: "looked up" in model.seen, "the words are looked up", SECONDS)
        assert model.seen == ["looked up"]
        model.may_embed.set()
        answer = answer_of(asked.result(SECONDS))
    assert model.seen == ["looked up", "embedded"]
    assert answer["results"][0]["doc_id"] == "boiler"


def test_behind_anothers_text_no_connection_waits_for_the_model(library, model):
    embedder = get_embedder()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(embedder.embed_passages, ["a text of another user"])
        assert model.entered.wait(SECONDS)
        before = embedder.queued_tokens
        asked = pool.submit(library.query, QUESTION)
        wait_until(lambda: embedder.queued_tokens > before, "the question waits", SECONDS)
        assert (in_transaction(), model.seen) == (0, [])
        model.may_embed.set()
        assert answer_of(asked.result(SECONDS))["results"][0]["doc_id"] == "boiler"
        assert len(other.result(SECONDS)) == 1
    assert model.seen == ["embedded", "embedded", "looked up"]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"since": "2020-01-01T00:00:00Z"},
        {"context": False, "decay_weight": 0},
        {"query": "what is the"},
        {"query": '"cold water" and patience', "top_k": 2},
        {"surroundings": 1, "candidates": 3},
    ],
    ids=["plain", "filtered", "no context", "stop words", "quoted", "surroundings"],
)
def test_the_answer_is_the_one_of_a_question_that_had_to_wait(library, monkeypatch, asked):
    body = {"query": QUESTION, "now": "2026-01-01T00:00:00Z", "decay_weight": 0} | asked
    early = answer_of(library.post("memory/query", body))
    monkeypatch.setattr(Embedder, "queued_tokens", 1)
    assert answer_of(library.post("memory/query", body)) == early
    assert early["results"]


def test_a_refusal_of_the_model_ends_the_transaction_that_waited_for_it(library, monkeypatch):
    def refused():
        raise Overloaded(retry_after_seconds=3)

    ask = Embedder.ask_query
    monkeypatch.setattr(Embedder, "ask_query", lambda *_, **__: refused)
    response = library.query(QUESTION)
    assert (response.status_code, response.json()["code"], response["Retry-After"]) == (503, "overloaded", "3")
    assert in_transaction() == 0
    monkeypatch.setattr(Embedder, "ask_query", ask)
    assert answer_of(library.query(QUESTION))["results"][0]["doc_id"] == "boiler"
