"""POST /memory/summarize: cited sentences, kept as a document that goes with what it was made from."""

import json
import logging
import threading

import pytest
from django.db import connections

from memory.admission.rate import Rate
from memory.language.extract import CENTRAL_CHUNKS
from memory.language.llm import forget_language_model
from memory.rls import tenant_transaction
from memory.services import summarize as service
from tests.llm_server import CUT, STATUS_OK, LLMServer, finish, say, status

pytestmark = pytest.mark.django_db(transaction=True)

HARBOUR = (
    "The harbour crane was repaired in spring. Repairing the harbour crane took four weeks and three engineers. "
    "The crane lifts forty tons again. Without the crane the harbour could unload no ships. "
    "My cousin prefers tea. Ships wait less now that the harbour crane works."
)
BAKERY = (
    "The bakery bakes rye bread every morning. Its rye bread sells out before nine. "
    "The baker wants a second oven for more bread. A second oven would double the bakery's bread."
)


@pytest.fixture
def library(alice):
    alice.index("harbour", HARBOUR, thread_id="t", source="notes", created_at="2026-01-01T00:00:00Z")
    alice.index("bakery", BAKERY, thread_id="t", source="notes", created_at="2026-01-02T00:00:00Z")
    alice.index("other", "The train to Gdansk was late again. Nobody said why it was so late.", source="chat")
    return alice


def summarized(person, **body) -> dict:
    answer = person.post("memory/summarize", body)
    assert answer.status_code == 200, answer.content
    return answer.json()


def document_ids(person) -> set[str]:
    with tenant_transaction(person.user_hash) as tx:
        rows = tx.execute("SELECT doc_id FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
        return {doc_id for (doc_id,) in rows.fetchall()}


def counted(person) -> tuple[int, int, int, int]:
    """(documents, chunks) as the tenant's row counts them and as they are."""
    with tenant_transaction(person.user_hash) as tx:
        kept = tx.execute("SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s", [tx.user_hash])
        documents = tx.execute("SELECT count(*) FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
        chunks = tx.execute("SELECT count(*) FROM memory_chunks WHERE user_hash = %s", [tx.user_hash])
        return *kept.fetchone(), documents.fetchone()[0], chunks.fetchone()[0]


def test_a_summary_is_cited_sentences_in_document_order(library):
    texts = {"harbour": HARBOUR, "bakery": BAKERY}
    made = summarized(library, thread_id="t", max_sentences=4)
    assert 1 < len(made["sentences"]) <= 4
    assert made["summary"] == " ".join(sentence["text"] for sentence in made["sentences"])
    for sentence in made["sentences"]:
        citation = sentence["citation"]
        assert texts[citation["doc_id"]][citation["start"] : citation["end"]] == citation["quote"] == sentence["text"]
        assert citation["chunk_index"] == 0
    places = [(s["citation"]["doc_id"] == "bakery", s["citation"]["start"]) for s in made["sentences"]]
    assert places == sorted(places) and {at_bakery for at_bakery, _ in places} == {True, False}
    assert "cousin" not in made["summary"]
    assert made["covers"] == {"documents": 2, "chunks": 2}
    assert (made["backend"], made["stored"], made["degraded"]) == ("extractive", True, [])
    assert {"read", "embed", "store", "total"} <= set(made["took_ms"])


def test_a_summary_is_a_document_with_its_provenance_that_queries_find(library):
    made = summarized(library, thread_id="t")
    stored = library.get(f"memory/documents/{made['doc_id']}").json()
    assert (stored["text"], stored["source"]) == (made["summary"], "summary")
    assert set(stored["metadata"]["derived_from"]) == {"harbour", "bakery"}
    assert stored["metadata"]["summary"]["scope"] == {"thread_id": "t"}
    assert [place["start"] for place in stored["metadata"]["summary"]["sentences"]] == [
        sentence["citation"]["start"] for sentence in made["sentences"]
    ]
    found = library.query(made["summary"], source="summary").json()["results"]
    assert [result["doc_id"] for result in found] == [made["doc_id"]]


def test_the_same_scope_replaces_its_summary_and_another_has_its_own(library):
    first = summarized(library, doc_ids=["harbour", "bakery"])["doc_id"]
    assert summarized(library, doc_ids=["bakery", "harbour", "bakery"], max_sentences=1)["doc_id"] == first
    others = {
        summarized(library, **scope)["doc_id"]
        for scope in ({"doc_ids": ["harbour"]}, {"source": "notes"}, {"thread_id": "t"}, {"query": "notes"})
    }
    assert len(others | {first}) == 5
    assert counted(library) == (8, 8, 8, 8)


def test_nothing_is_stored_on_demand(library):
    before = document_ids(library)
    made = summarized(library, source="notes", store=False)
    assert made["summary"] and (made["doc_id"], made["stored"]) == (None, False)
    assert document_ids(library) == before


def test_a_memory_that_is_erased_and_imported_has_one_summary_of_a_scope_still(library):
    made = summarized(library, thread_id="t")
    lines = b"".join(library.get("memory/export").streaming_content).splitlines()
    assert library.post("memory/erase", {"confirm": library.user_id}).status_code == 200
    assert {library.post("memory/index", json.loads(line)).status_code for line in lines} == {201}
    before = document_ids(library)
    assert summarized(library, thread_id="t")["doc_id"] == made["doc_id"]
    assert document_ids(library) == before == {"harbour", "bakery", "other", made["doc_id"]}


def test_two_users_summaries_of_one_scope_have_different_ids(library, bob):
    bob.index("mine", HARBOUR, thread_id="t")
    assert summarized(library, thread_id="t")["doc_id"] != summarized(bob, thread_id="t")["doc_id"]


def test_blank_chunks_are_not_what_a_document_is_about(library):
    assert library.index("blanks", "hello" + " " * 400_000).json()["chunks"] > CENTRAL_CHUNKS
    made = summarized(library, doc_ids=["blanks"])
    assert (made["summary"], made["stored"]) == ("hello", True)


def test_a_query_is_paid_for_as_one_and_another_scope_is_not(library, settings):
    settings.MEMORY_RATE_QUERY = Rate(1, 3600)
    assert library.post("memory/summarize", {"query": ""}).status_code == 422
    body = {"query": "harbour crane", "store": False}
    assert [library.post("memory/summarize", body).status_code for _ in range(2)] == [200, 429]
    assert library.query("train").status_code == 429
    summarized(library, thread_id="t")


def test_a_summary_goes_with_any_document_it_covers(library):
    made = summarized(library, thread_id="t")
    kept = summarized(library, source="chat")
    library.delete("memory/documents/harbour")
    assert library.get(f"memory/documents/{made['doc_id']}").status_code == 404
    assert library.get(f"memory/documents/{kept['doc_id']}").status_code == 200
    again = summarized(library, thread_id="t")
    library.index("bakery", "The bakery has closed for good.")
    assert again["doc_id"] == made["doc_id"] not in document_ids(library)


def test_a_summary_is_never_summarised(library):
    summarized(library, thread_id="t")
    made = summarized(library, thread_id="t")
    assert made["covers"]["documents"] == 2
    by_query = summarized(library, query="harbour crane repaired")
    assert {s["citation"]["doc_id"] for s in by_query["sentences"]} <= {"harbour", "bakery", "other"}
    assert summarized(library, source="summary")["summary"] == ""
    answer = library.post("memory/summarize", {"doc_ids": [made["doc_id"]]})
    assert answer.status_code == 404


def test_a_question_draws_the_sentences_near_it(library):
    made = summarized(library, query="Why does the baker want another oven?", max_sentences=2)
    assert {sentence["citation"]["doc_id"] for sentence in made["sentences"]} == {"bakery"}
    assert "oven" in made["summary"]


def test_sentences_of_overlapping_and_cut_chunks_are_whole_and_come_once(alice):
    text = " ".join(f"Entry {n}: the keeper of lamp {n * 7} wrote down the weather of day {n}." for n in range(160))
    assert alice.index("log", text).json()["chunks"] > 3
    made = summarized(alice, doc_ids=["log"], max_sentences=20)
    assert len({sentence["text"] for sentence in made["sentences"]}) == len(made["sentences"]) == 20
    for sentence in made["sentences"]:
        assert sentence["text"].startswith("Entry ") and sentence["text"].endswith(".")
        citation = sentence["citation"]
        assert text[citation["start"] : citation["end"]] == citation["quote"]


def test_nothing_to_summarise_is_empty_or_404(alice, stranger):
    for person in (alice, stranger):
        for scope in ({"source": "absent"}, {"query": "anything"}):
            made = summarized(person, **scope)
            assert (made["summary"], made["sentences"], made["doc_id"], made["stored"]) == ("", [], None, False)
            assert made["covers"] == {"documents": 0, "chunks": 0}
        for scope in ({"doc_ids": ["absent"]}, {"thread_id": "absent"}):
            assert person.post("memory/summarize", scope).status_code == 404
        person.index("one", "There is one document.")
        assert person.post("memory/summarize", {"doc_ids": ["one", "absent"]}).status_code == 404


def test_nobody_summarises_anothers_memory(library, bob):
    bob.index("mine", "Bob wrote this himself.", thread_id="t")
    made = summarized(bob, thread_id="t")
    assert made["covers"] == {"documents": 1, "chunks": 1}
    assert bob.post("memory/summarize", {"doc_ids": ["harbour"]}).status_code == 404


@pytest.mark.parametrize("text", ["x", "?", "word " * 900, "没有空格的句子。" * 60, "# Title"])
def test_any_text_has_a_summary(alice, text):
    alice.index("odd", text)
    made = summarized(alice, doc_ids=["odd"], max_sentences=3)
    assert made["summary"] and made["stored"]


def test_long_ids_leave_room_for_the_provenance(alice):
    ids = [f"{n:03}" + "\U0001f600" * 250 for n in range(60)]
    for doc_id in ids:
        alice.index(doc_id, f"Document {doc_id[:3]} says that the sea was calm.", source="notes")
    made = summarized(alice, source="notes", max_sentences=20)
    stored = alice.get(f"memory/documents/{made['doc_id']}").json()
    assert len(stored["metadata"]["derived_from"]) == made["covers"]["documents"] == 32
    assert alice.index("copy", stored["text"], source="copy", metadata=stored["metadata"]).status_code == 201


def while_it_works(monkeypatch, happens, times: int) -> None:
    """`happens` in another thread, the first `times` times that chunks are about to be split."""
    real, left = service.cited_sentences, [times]

    def meanwhile(chunks, **limits):
        if left[0]:
            left[0] -= 1
            other = threading.Thread(target=lambda: (happens(), connections.close_all()))
            other.start()
            other.join()
        return real(chunks, **limits)

    monkeypatch.setattr(service, "cited_sentences", meanwhile)


def test_a_document_deleted_meanwhile_leaves_no_summary_behind(library, monkeypatch):
    while_it_works(monkeypatch, lambda: library.delete("memory/documents/harbour"), times=1)
    made = summarized(library, thread_id="t")
    assert made["covers"]["documents"] == 1
    assert "crane" not in library.get(f"memory/documents/{made['doc_id']}").json()["text"]


def test_the_last_document_deleted_meanwhile_is_404(library, monkeypatch):
    while_it_works(monkeypatch, lambda: library.delete("memory/documents/harbour"), times=1)
    assert library.post("memory/summarize", {"doc_ids": ["harbour"]}).status_code == 404
    assert document_ids(library) == {"bakery", "other"}


def test_documents_that_keep_changing_are_503_and_leave_nothing(library, monkeypatch):
    versions = iter(range(9))
    while_it_works(monkeypatch, lambda: library.index("harbour", f"Version {next(versions)} of it."), times=2)
    answer = library.post("memory/summarize", {"doc_ids": ["harbour"]})
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert document_ids(library) == {"harbour", "bakery", "other"}


@pytest.fixture
def server(settings):
    with LLMServer() as running:
        settings.MEMORY_LLM_BASE_URL = running.base_url
        yield running
    forget_language_model()


def test_a_language_model_writes_the_summary_of_the_cited_sentences(library, server):
    server.plays(STATUS_OK, *say("The crane ", "works."), *finish())
    made = summarized(library, doc_ids=["harbour"], max_sentences=2)
    assert (made["summary"], made["backend"], made["degraded"]) == ("The crane works.", "llm:default", [])
    assert library.get(f"memory/documents/{made['doc_id']}").json()["text"] == "The crane works."
    sent = server.requests[-1]["messages"][-1]["content"]
    assert len(made["sentences"]) == 2
    assert all(sentence["text"] in sent for sentence in made["sentences"])
    assert "cousin" not in sent


def test_nothing_is_neither_rewritten_nor_stored(library, server, monkeypatch):
    monkeypatch.setattr(service, "cited_sentences", lambda chunks, **limits: [])
    made = summarized(library, doc_ids=["harbour"])
    assert (made["summary"], made["sentences"], made["doc_id"], made["stored"]) == ("", [], None, False)
    assert not server.requests
    assert document_ids(library) == {"harbour", "bakery", "other"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([STATUS_OK, *say("The cr"), 60.0], "stalled"),
        ([STATUS_OK, *say("The cr"), CUT], "unreachable"),
        (status(500), "refused"),
        ([STATUS_OK, *say(" \n"), *finish()], "malformed"),
        ([STATUS_OK, *say("I would rather not"), *finish("content_filter")], "refused"),
    ],
)
def test_a_failing_language_model_falls_back_to_the_sentences(library, server, settings, caplog, script, reason):
    if reason == "stalled":
        settings.MEMORY_LLM_STALL_SECONDS = 1.0
    server.plays(*script)
    with caplog.at_level(logging.DEBUG):
        made = summarized(library, doc_ids=["harbour"])
    assert (made["backend"], made["degraded"], made["stored"]) == ("extractive", [f"llm_{reason}"], True)
    assert made["summary"] == " ".join(sentence["text"] for sentence in made["sentences"])
    assert "crane" not in caplog.text and "harbour" not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        {}, {"doc_ids": None}, {"doc_ids": []}, {"doc_ids": "a"}, {"doc_ids": [""]}, {"doc_ids": ["a"] * 101},
        {"doc_ids": ["a"], "query": "b"}, {"thread_id": "a", "source": "b"}, {"thread_id": "a\x01"},
        {"source": ["a"]}, {"source": "x" * 65}, {"query": ""}, {"query": "q" * 8193}, {"query": "a\x00"},
        {"source": "a", "max_sentences": 0}, {"source": "a", "max_sentences": 21}, {"source": "a", "store": "no"},
        {"source": "a", "top_k": 3},
    ],
)  # fmt: skip
def test_a_bad_request_is_422(alice, body):
    answer = alice.post("memory/summarize", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.content
    assert answer.json()["errors"]


def test_reading_alone_may_not_summarise(library):
    answer = library.client(scope="memory:read").post(
        "/api/v1/memory/summarize", {"source": "notes"}, content_type="application/json"
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
