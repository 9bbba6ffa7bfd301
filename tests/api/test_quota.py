"""The quota of chunks: who is over it is told so and loses nothing, and nobody else notices."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from django.db import connections
from prometheus_client import REGISTRY

from memory.admission.rate import Rate
from memory.embedding.process import get_embedder
from memory.embedding.spaces import default_space
from memory.errors import QuotaExceeded
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.rls import tenant_transaction
from memory.services import index as index_service

pytestmark = pytest.mark.django_db(transaction=True)

SENTENCE = "The night train to the coast has a dining car."
WHOLE_CHUNK = "word " * 480


def text_of(chunks: int) -> str:
    """A text that makes exactly so many chunks."""
    text = SENTENCE if chunks == 1 else WHOLE_CHUNK + "word " * 420 * (chunks - 1)
    assert len(index_service.chunks_of([text], default_space(), get_embedder())[0]) == chunks
    return text


def documents(*sizes: tuple[str, int], **fields) -> dict:
    return {"documents": [{"doc_id": doc_id, "text": text_of(chunks), **fields} for doc_id, chunks in sizes]}


def stored(superuser, person) -> dict[str, int]:
    """Chunks by document, as they are; the counts kept of them agree."""
    rows = superuser.execute(
        "SELECT doc_id, count(*) FROM memory_chunks WHERE user_hash = %s GROUP BY doc_id", [person.user_hash]
    ).fetchall()
    counted = superuser.execute(
        "SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s", [person.user_hash]
    ).fetchone()
    assert (counted or (0, 0)) == (len(rows), sum(chunks for _, chunks in rows))
    return dict(rows)


def refusals() -> float:
    return REGISTRY.get_sample_value("memory_errors_total", {"operation": "index", "reason": "quota"}) or 0


@pytest.fixture
def embedded(monkeypatch) -> list[int]:
    """How many passages each call of the embedding model was given."""
    model, calls = type(get_embedder()), []
    embed_passages = model.embed_passages

    def counted(self, texts, **kwargs):
        calls.append(len(texts))
        return embed_passages(self, texts, **kwargs)

    monkeypatch.setattr(model, "embed_passages", counted)
    return calls


@pytest.fixture
def late(monkeypatch) -> None:
    """The look before the work sees room for everything, as one does that was taken a moment too early."""
    monkeypatch.setattr(index_service, "require_room_for", lambda *args: None)


def test_bob_is_untouched_by_alices_full_quota(alice, bob, superuser, settings):
    settings.MEMORY_MAX_CHUNKS_PER_USER = 3
    before = refusals()
    assert bob.index("b", SENTENCE).status_code == 201
    assert [alice.index(f"a{number}", SENTENCE).status_code for number in range(5)] == [201, 201, 201, 422, 422]
    refused = alice.index("a9", text_of(2))
    assert (refused.json()["code"], refused.json()["title"]) == ("quota_exceeded", "Quota exceeded")
    assert refused.json()["detail"] == "A user may store 3 chunks; 3 are stored, and with this it would be 5."
    assert "Retry-After" not in refused
    assert refusals() == before + 3
    assert stored(superuser, alice) == {"a0": 1, "a1": 1, "a2": 1}
    # His own quota is what it was, and so is what he has.
    assert [bob.index(f"b{number}", SENTENCE).status_code for number in range(3)] == [201, 201, 422]
    assert len(bob.query("train").json()["results"]) == 3
    assert bob.get("memory/stats").json()["quota"] == {"chunks": 3, "max_chunks": 3}


def test_a_user_without_room_does_not_reach_the_model(alice, stranger, settings, embedded):
    settings.MEMORY_MAX_CHUNKS_PER_USER = 1
    assert alice.index("a", SENTENCE).status_code == 201
    assert embedded == [1]
    assert alice.index("b", SENTENCE).status_code == 422
    assert alice.post("memory/index", documents(("a", 1), ("b", 1))).status_code == 422
    assert alice.post("memory/index", documents(("c", 1)), **{"idempotency-key": "k"}).status_code == 422
    assert stranger.post("memory/index", documents(("a", 1), ("b", 1))).status_code == 422
    assert embedded == [1]


@pytest.mark.parametrize("look", ["before the work", "in the transaction"])
def test_what_a_call_replaces_is_credited_whatever_the_order(request, alice, superuser, settings, look):
    if look == "in the transaction":
        request.getfixturevalue("late")
    settings.MEMORY_MAX_CHUNKS_PER_USER = 5
    assert alice.post("memory/index", documents(("a", 2), ("b", 3))).status_code == 201
    assert alice.index("a", text_of(2)).status_code == 200
    # In the middle of it there are more than five.
    assert alice.post("memory/index", documents(("a", 4), ("b", 1))).status_code == 200
    assert stored(superuser, alice) == {"a": 4, "b": 1}
    assert alice.post("memory/index", documents(("a", 4), ("b", 2))).status_code == 422
    assert alice.post("memory/index", documents(("a", 3), ("b", 1), ("c", 2))).status_code == 422
    assert stored(superuser, alice) == {"a": 4, "b": 1}


@pytest.mark.parametrize("look", ["before the work", "in the transaction"])
def test_what_was_made_from_a_replaced_document_is_credited_too(request, alice, superuser, settings, look):
    if look == "in the transaction":
        request.getfixturevalue("late")
    settings.MEMORY_MAX_CHUNKS_PER_USER = 4
    alice.post("memory/index", documents(("a", 1), ("b", 1)))
    for doc_id, source in (("s", "a"), ("of-s", "s")):
        made = alice.index(doc_id, SENTENCE, source="summary", metadata={"derived_from": [source]})
        assert made.status_code == 201
    assert alice.index("a", text_of(4)).status_code == 422
    assert alice.index("a", text_of(3)).status_code == 200
    assert stored(superuser, alice) == {"a": 3, "b": 1}


def test_a_batch_over_the_quota_leaves_the_earlier_versions_of_all(alice, superuser, settings, late):
    settings.MEMORY_MAX_CHUNKS_PER_USER = 3
    assert alice.post("memory/index", documents(("a", 1), ("b", 1))).status_code == 201
    before = [alice.get(f"memory/documents/{doc_id}").json() for doc_id in "ab"]
    refused = alice.post("memory/index", documents(("a", 1), ("b", 1), ("c", 2)))
    assert (refused.status_code, refused.json()["code"]) == (422, "quota_exceeded")
    assert [alice.get(f"memory/documents/{doc_id}").json() for doc_id in "ab"] == before
    assert stored(superuser, alice) == {"a": 1, "b": 1}


def test_writers_at_once_do_not_pass_the_quota_together(alice, superuser, settings, late):
    settings.MEMORY_MAX_CHUNKS_PER_USER = 5
    start = threading.Barrier(8, timeout=30)

    def write(number: int) -> int:
        try:
            start.wait()
            return alice.index(f"doc-{number}", SENTENCE).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(write, range(8)))
    assert sorted(statuses) == [201] * 5 + [422] * 3
    assert sum(stored(superuser, alice).values()) == 5


def test_over_a_quota_that_was_lowered_one_can_do_all_that_does_not_store_more(alice, superuser, settings):
    assert alice.post("memory/index", documents(("a", 3), ("b", 2))).status_code == 201
    settings.MEMORY_MAX_CHUNKS_PER_USER = 1
    assert alice.get("memory/stats").json()["quota"] == {"chunks": 5, "max_chunks": 1}
    assert len(alice.query("word").json()["results"]) == 3
    assert alice.get("memory/documents/a").json()["chunks"] == 3
    assert b"".join(alice.get("memory/export").streaming_content).count(b"\n") == 2
    assert alice.index("c", SENTENCE).status_code == 422
    assert alice.index("a", text_of(4)).status_code == 422
    assert alice.index("a", text_of(3)).status_code == 200
    assert alice.index("a", text_of(2)).status_code == 200
    assert stored(superuser, alice) == {"a": 2, "b": 2}
    assert alice.delete("memory/documents/b").status_code == 204
    assert alice.post("memory/erase", {"confirm": alice.user_id}).status_code == 200
    assert alice.index("a", SENTENCE).status_code == 201


def test_an_earlier_answer_is_given_again_at_the_quota_and_costs_no_chunks(alice, superuser, settings):
    settings.MEMORY_MAX_CHUNKS_PER_USER = 2
    settings.MEMORY_RATE_CHUNKS = Rate(1000, 3600)
    body, key = documents(("a", 1), ("b", 1)), {"idempotency-key": "first-try"}
    first = alice.post("memory/index", body, **key)
    # Now neither its documents nor their chunks are there to be credited.
    assert [alice.delete(f"memory/documents/{doc_id}").status_code for doc_id in "ab"] == [204, 204]
    assert alice.post("memory/index", documents(("c", 2))).status_code == 201
    left = alice.get("memory/stats").json()["rates"]["chunks"]["remaining"]
    again = alice.post("memory/index", body, **key)
    assert (first.status_code, again.status_code, again["Idempotent-Replayed"]) == (201, 201, "true")
    assert again.content == first.content
    assert alice.get("memory/stats").json()["rates"]["chunks"]["remaining"] == left == 996
    assert stored(superuser, alice) == {"c": 2}


def test_a_refusal_is_not_remembered_under_its_key(alice, settings, late):
    settings.MEMORY_MAX_CHUNKS_PER_USER = 1
    alice.index("a", SENTENCE)
    body, key = documents(("b", 1)), {"idempotency-key": "first-try"}
    assert alice.post("memory/index", body, **key).status_code == 422
    assert alice.delete("memory/documents/a").status_code == 204
    assert alice.post("memory/index", body, **key).status_code == 201


def test_a_summary_without_room_is_answered_and_not_stored(alice, superuser, settings):
    alice.index("a", f"{SENTENCE} The dining car serves soup. The soup is hot.", thread_id="t")
    settings.MEMORY_MAX_CHUNKS_PER_USER = 1
    made = alice.post("memory/summarize", {"thread_id": "t"})
    assert made.status_code == 200 and made.json()["summary"]
    assert (made.json()["stored"], made.json()["doc_id"], made.json()["degraded"]) == (False, None, ["quota"])
    assert stored(superuser, alice) == {"a": 1}
    settings.MEMORY_MAX_CHUNKS_PER_USER = 2
    kept = [alice.post("memory/summarize", {"thread_id": "t"}).json() for _ in range(2)]
    assert [(made["stored"], made["degraded"]) for made in kept] == [(True, []), (True, [])]
    # It counts, and the same again takes its place.
    assert alice.index("b", SENTENCE).status_code == 422
    assert stored(superuser, alice) == {"a": 1, kept[0]["doc_id"]: 1}


def test_code_in_the_same_process_is_held_to_the_quota_too(alice, superuser, settings):
    settings.MEMORY_MAX_CHUNKS_PER_USER = 2

    def store(doc_id: str) -> None:
        vectors = np.random.default_rng(0).normal(size=(1, 384))
        passages = [Slice(SENTENCE, 0, len(SENTENCE))]
        index_memory_batch(connections["default"], alice.user_id, doc_id, "api", passages, vectors)

    store("a")
    with pytest.raises(QuotaExceeded), tenant_transaction(alice.user_hash, write=True):
        store("b")
        store("c")
    assert stored(superuser, alice) == {"a": 1}
