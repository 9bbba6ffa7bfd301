"""POST /memory/entities: merged mentions with exact offsets, sealed beside their chunks and back in query results."""

import threading
import time

import pytest
from django.db import connections

from memory.admission import deadline
from memory.errors import Overloaded
from memory.language.entities import Mention
from memory.language.pipeline import entity_pipeline, sentence_pipeline
from memory.language.turns import FairThread
from memory.retrieval.open import Opening
from memory.rls import bind_tenant, tenant_transaction
from memory.services import entities as service

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = (
    "Angela Merkel visited the Berlin office of Siemens in March 2021. "
    "Siemens' staff in Berlin cheered when Angela Merkel left for the United States."
)


def by_text(answer) -> dict:
    assert answer.status_code == 200, answer.content
    return {(entity["text"], entity["label"]): entity for entity in answer.json()["entities"]}


def long_text(words: str = "Angela Merkel met Tim Cook in Berlin on Monday. ") -> str:
    """Several chunks."""
    return words * 120


def stored_entities(person, doc_id: str) -> list:
    results = person.query("Who met whom?", doc_id=doc_id, top_k=50).json()["results"]
    assert results
    return [result["metadata"].get("entities") for result in sorted(results, key=lambda r: r["chunk_index"])]


def test_mentions_of_one_thing_are_one_entity_at_their_exact_places(alice):
    answer = alice.post("memory/entities", {"text": TEXT})
    found = by_text(answer)
    body = answer.json()
    assert (body["backend"], body["stored"]) == ("spacy:en_core_web_sm", False)
    assert found["Berlin", "GPE"]["count"] == 2
    assert found["Siemens", "ORG"]["count"] == 2
    assert found["Angela Merkel", "PERSON"]["count"] == 2
    assert found["United States", "GPE"]["count"] == 1
    for entity in body["entities"]:
        assert entity["count"] == len(entity["mentions"])
        for mention in entity["mentions"]:
            assert mention["chunk_id"] is None
            slice_of_it = TEXT[mention["start"] : mention["end"]]
            assert " ".join(slice_of_it.split()).casefold() == entity["text"].casefold()
    assert [e["count"] for e in body["entities"]] == sorted((e["count"] for e in body["entities"]), reverse=True)


def test_labels_narrow_the_answer(alice):
    found = by_text(alice.post("memory/entities", {"text": TEXT, "labels": ["GPE", "NO_SUCH_LABEL"]}))
    assert {label for _, label in found} == {"GPE"}


def test_a_mention_in_the_overlap_of_two_chunks_counts_once(alice):
    text = long_text()
    chunk_ids = alice.index("minutes", text).json()["chunk_ids"]
    assert len(chunk_ids) > 2
    in_memory = by_text(alice.post("memory/entities", {"doc_id": "minutes"}))
    in_text = by_text(alice.post("memory/entities", {"text": text}))
    assert {key: entity["count"] for key, entity in in_memory.items()} == {
        key: entity["count"] for key, entity in in_text.items()
    }
    for entity in in_memory.values():
        spans = [(mention["start"], mention["end"]) for mention in entity["mentions"]]
        assert len(set(spans)) == len(spans)
        assert {mention["chunk_id"] for mention in entity["mentions"]} <= set(chunk_ids)
        assert all(text[start:end] == entity["text"] for start, end in spans)


def test_what_is_found_comes_back_with_each_passage_and_a_second_run_replaces_it(alice):
    text = long_text()
    alice.index("minutes", text, metadata={"stars": 5})
    assert stored_entities(alice, "minutes") == [None] * len(stored_entities(alice, "minutes"))

    assert alice.post("memory/entities", {"doc_id": "minutes"}).json()["stored"] is True
    results = alice.query("Who met whom?", doc_id="minutes", top_k=50).json()["results"]
    for result in results:
        assert result["metadata"]["stars"] == 5
        assert {"Berlin", "Tim Cook"} <= {entity["text"] for entity in result["metadata"]["entities"]}
        for entity in result["metadata"]["entities"]:
            for mention in entity["mentions"]:
                assert result["citation"]["start"] <= mention["start"] < mention["end"] <= result["citation"]["end"]
                assert text[mention["start"] : mention["end"]] == entity["text"]

    alice.post("memory/entities", {"doc_id": "minutes", "labels": ["GPE"]})
    assert all({entity["label"] for entity in chunk} == {"GPE"} for chunk in stored_entities(alice, "minutes"))
    assert alice.get("memory/documents/minutes").json()["metadata"] == {"stars": 5}


def test_metadata_of_that_name_that_the_product_sent_stands(alice):
    alice.index("minutes", TEXT, metadata={"entities": ["mine"]})
    assert by_text(alice.post("memory/entities", {"doc_id": "minutes"}))
    assert stored_entities(alice, "minutes") == [["mine"]]
    assert alice.get("memory/documents/minutes").json()["metadata"] == {"entities": ["mine"]}


def test_a_document_written_again_has_no_entities_until_asked(alice):
    alice.index("minutes", TEXT)
    alice.post("memory/entities", {"doc_id": "minutes"})
    assert stored_entities(alice, "minutes")[0]
    alice.index("minutes", TEXT)
    assert stored_entities(alice, "minutes") == [None]


def test_a_thread_is_all_its_documents_and_nobody_elses(alice, bob):
    alice.index("m1", "Tim Cook met Angela Merkel in Berlin.", thread_id="t")
    alice.index("m2", "Berlin was cold, said Angela Merkel.", thread_id="t")
    alice.index("m3", "Paris was warm.", thread_id="other")
    bob.index("m4", "Nobody was in Madrid.", thread_id="t")
    found = by_text(alice.post("memory/entities", {"thread_id": "t"}))
    assert found["Berlin", "GPE"]["count"] == 2
    assert len({mention["chunk_id"] for mention in found["Berlin", "GPE"]["mentions"]}) == 2
    assert not {"Paris", "Madrid"} & {text for text, _ in found}
    assert stored_entities(alice, "m3") == [None]


def test_each_chunk_sealed_again_is_counted_against_the_key(alice):
    def seals() -> int:
        with tenant_transaction(alice.user_hash) as tx:
            return tx.state().seal_count

    chunks = alice.index("minutes", long_text()).json()["chunks"]
    before = seals()
    alice.post("memory/entities", {"doc_id": "minutes"})
    assert seals() == before + chunks


class Interrupted:
    """A recogniser during whose work something else happens, each of the first `times` times."""

    backend = "spacy:en_core_web_sm"

    def __init__(self, happens, times: int):
        self._happens = happens
        self._times = times
        self._real = service.recognizer()

    def recognize(self, texts, *, deadline=None) -> list[list[Mention]]:
        found = self._real.recognize(texts, deadline=deadline)
        if self._times:
            self._times -= 1
            other = threading.Thread(target=self._and_close)
            other.start()
            other.join()
        return found

    def _and_close(self):
        self._happens()
        connections.close_all()


def test_a_document_replaced_meanwhile_is_recognised_as_it_is_now(alice, monkeypatch):
    alice.index("minutes", "Tim Cook met Angela Merkel in Berlin.")
    real = Interrupted(lambda: alice.index("minutes", "Nobody but Tim Cook went to Madrid."), times=1)
    monkeypatch.setattr(service, "recognizer", lambda _user: real)
    found = by_text(alice.post("memory/entities", {"doc_id": "minutes"}))
    assert {"Madrid"} <= {text for text, _ in found} and "Berlin" not in {text for text, _ in found}
    assert "Madrid" in {entity["text"] for entity in stored_entities(alice, "minutes")[0]}


def test_a_document_that_keeps_changing_is_503_and_keeps_its_own(alice, monkeypatch):
    alice.index("minutes", "Tim Cook met Angela Merkel in Berlin.")
    real = Interrupted(lambda: alice.index("minutes", "Nobody but Tim Cook went to Madrid."), times=2)
    monkeypatch.setattr(service, "recognizer", lambda _user: real)
    answer = alice.post("memory/entities", {"doc_id": "minutes"})
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["Retry-After"]
    assert stored_entities(alice, "minutes") == [None]


class TooLate(Opening):
    def text(self, row):
        pytest.fail("opened too late")


def test_nothing_is_opened_once_the_time_is_up(alice, monkeypatch):
    alice.index("minutes", TEXT)
    monkeypatch.setattr(service, "Opening", TooLate)
    read_chunks = service.read_chunks

    def read_until_the_last_moment(*arguments, **named):
        read = read_chunks(*arguments, **named)
        deadline.allow(0)
        return read

    monkeypatch.setattr(service, "read_chunks", read_until_the_last_moment)
    answer = alice.post("memory/entities", {"doc_id": "minutes"})
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert stored_entities(alice, "minutes") == [None]


def test_the_requests_own_deadline_ends_the_work_too(alice):
    with bind_tenant(alice.user_hash), deadline.counting_from(time.monotonic()):
        deadline.allow(0)
        with pytest.raises(Overloaded):
            service.entities_in_text(TEXT)


def test_the_turns_taken_are_the_users_own(alice, monkeypatch):
    users = set()
    submit = FairThread.submit

    def noted(self, work, *, user="", **limits):
        users.add(user)
        return submit(self, work, user=user, **limits)

    monkeypatch.setattr(FairThread, "submit", noted)
    alice.index("minutes", TEXT)
    for asked in ({"text": TEXT}, {"doc_id": "minutes"}):
        assert alice.post("memory/entities", asked).status_code == 200
    assert alice.post("memory/summarize", {"doc_ids": ["minutes"]}).status_code == 200
    assert users == {alice.user_hash}


def test_a_document_deleted_meanwhile_is_404(alice, monkeypatch):
    alice.index("minutes", "Tim Cook met Angela Merkel in Berlin.")
    real = Interrupted(lambda: alice.delete("memory/documents/minutes"), times=1)
    monkeypatch.setattr(service, "recognizer", lambda _user: real)
    assert alice.post("memory/entities", {"doc_id": "minutes"}).status_code == 404


def test_missing_and_foreign_are_the_same_404(alice, bob):
    alice.index("minutes", TEXT, thread_id="t")
    for scope in ({"doc_id": "minutes"}, {"doc_id": "nothing"}, {"thread_id": "t"}):
        answer = bob.post("memory/entities", scope)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_thread_of_more_chunks_than_one_call_takes_is_422(alice, monkeypatch):
    monkeypatch.setattr(service, "CHUNKS_PER_CALL_MAX", 2)
    alice.index("minutes", long_text(), thread_id="t")
    answer = alice.post("memory/entities", {"thread_id": "t"})
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_chunks")


def test_a_pipeline_that_cannot_be_loaded_is_a_500_without_its_name(alice, settings, tmp_path):
    settings.MEMORY_SPACY_MODEL = str(tmp_path)
    answer = alice.post("memory/entities", {"text": TEXT})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert str(tmp_path) not in answer.content.decode()


def test_what_a_text_taught_the_pipeline_is_forgotten_with_it(alice):
    word = f"Xylophonia{alice.user_hash[:20]}"
    assert alice.post("memory/entities", {"text": f"Mrs. {word} met Tim Cook."}).status_code == 200
    for owned in (entity_pipeline(), sentence_pipeline()):
        assert not owned.run(lambda nlp: word in nlp.vocab.strings)
        assert owned.run(lambda nlp: bool(nlp(word)) and word in nlp.vocab.strings)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"text": None}, {"text": "a", "doc_id": "b"}, {"doc_id": "a", "thread_id": "b"}, {"text": " \n"},
        {"text": ""}, {"text": 1}, {"text": "a\x00"}, {"doc_id": "a//b"}, {"doc_id": ""}, {"thread_id": "a\x01"},
        {"text": "a", "labels": "GPE"}, {"text": "a", "labels": []}, {"text": "a", "labels": [""]},
        {"text": "a", "labels": ["x" * 65]}, {"text": "a", "labels": ["x"] * 51}, {"text": "a", "labels": None},
        {"text": "a", "more": 1}, {"text": "é" * 500_001},
    ],
)  # fmt: skip
def test_a_bad_request_is_422(alice, body):
    answer = alice.post("memory/entities", body)
    assert answer.status_code in (422, 413), answer.content
    assert answer.json()["code"] in ("invalid", "payload_too_large")


def test_reading_alone_may_not_ask(alice):
    answer = alice.client(scope="memory:read").post(
        "/api/v1/memory/entities", {"text": TEXT}, content_type="application/json"
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
