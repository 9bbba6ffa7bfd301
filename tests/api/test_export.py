"""GET /memory/export: every document once, as index takes it back; whole or visibly broken off."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from django.db import connections

from memory import metrics, rls
from memory.admission.concurrency import exports
from memory.api.streaming import export as export_body
from memory.api.streaming.client import PIECE_BYTES
from memory.erasure.erase import erase_memory
from memory.errors import DecryptionFailed, KeyUnavailable
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.rls import bind_tenant, tenant_transaction
from memory.services import export
from memory.services.export import export_documents
from memory.services.forget import delete_document
from tests.db.memories import remember, unit_vector
from tests.garbage import collect_what_is_new

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "backup"])

DEFAULTS = {"source": "api", "thread_id": None, "metadata": {}}
MIXED = [
    {"doc_id": "family/recipe", "text": "Two lemons\nand a cup of poppy seeds.\r\n", "source": "notes",
     "thread_id": "cake", "metadata": {"stars": 5, "by": ["Ömer", None, {"x": 1.5e-7}], "big": 2**62},
     "created_at": "2025-12-24T17:00:00.123456Z"},
    {"doc_id": "zażółć/gęślą 🙂", "text": "  \u2028 spaces, a \"quote\", a back\\slash, \x01 and 🙂 stay. ",
     "source": "api", "thread_id": None, "metadata": {}, "created_at": "1999-01-01T00:00:00Z"},
    {"doc_id": "long", "text": "The sea was calm and the keeper wrote it down. " * 400, "source": "api",
     "thread_id": "log", "metadata": {"k": "v"}, "created_at": "2026-01-01T00:00:00Z"},
    {"doc_id": "a-summary", "text": "Lemons, seeds and a calm sea.", "source": "summary", "thread_id": None,
     "metadata": {"derived_from": ["family/recipe", "long"]}, "created_at": "2026-01-02T00:00:00Z"},
]  # fmt: skip


@pytest.fixture(autouse=True)
def _every_slot_comes_back():
    yield
    collect_what_is_new()
    assert exports.taken == 0


def exported(person) -> list[dict]:
    response = person.get("memory/export")
    assert response.status_code == 200, response.content
    assert response["Content-Type"] == "application/x-ndjson; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    lines = b"".join(response.streaming_content)
    assert lines == b"" or lines.endswith(b"\n")
    return [DEFAULTS | json.loads(line) for line in lines.decode().split("\n")[:-1]]


def in_order(documents: list[dict]) -> list[dict]:
    return sorted(documents, key=lambda document: document["doc_id"])


def derived(person) -> dict[str, list[str]]:
    return {found["doc_id"]: found["derived_from"] for found in person.get("memory/documents").json()["results"]}


def test_a_user_without_documents_exports_nothing(stranger):
    assert exported(stranger) == []


def test_what_is_exported_is_what_was_indexed_and_comes_back_after_an_erasure(alice, bob):
    for document in MIXED:
        assert alice.post("memory/index", document).status_code == 201, document["doc_id"]
    bob.index("recipe", "Bob's own.")
    sent, made = exported(alice), derived(alice)
    assert in_order(sent) == in_order(MIXED)
    assert sent[-1]["doc_id"] == "a-summary", "what was made from others comes last"
    assert made["a-summary"] == ["family/recipe", "long"]

    assert alice.post("memory/erase", {"confirm": alice.user_id}).json()["erased_documents"] == 4
    assert exported(alice) == []
    for document in sent:
        assert alice.post("memory/index", document).status_code == 201
    assert exported(alice) == sent
    assert derived(alice) == made

    for document in exported(alice):
        assert alice.post("memory/index", document).status_code in (200, 201)
    assert exported(alice) == sent, "also over what is there: the summary is indexed after what it was made from"
    assert len(exported(bob)) == 1


def test_pages_of_any_size_give_every_document_once_in_one_order(alice, monkeypatch):
    remember(alice, *(f"doc-{number}" for number in range(12)))
    whole = exported(alice)
    assert [document["doc_id"] for document in whole] == sorted(f"doc-{number}" for number in range(12))
    for documents, chunks in ((1, 200), (5, 200), (50, 1), (50, 3)):
        monkeypatch.setattr(export, "PAGE_DOCUMENTS", documents)
        monkeypatch.setattr(export, "PAGE_CHUNKS", chunks)
        assert exported(alice) == whole


def test_while_others_come_and_go_every_document_that_stays_is_exported_once(alice, monkeypatch):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 2)
    remember(alice, *(f"m-{number}" for number in range(9)))
    with bind_tenant(alice.user_hash):
        documents = export_documents().documents
    seen = []
    for number, document in enumerate(documents):
        seen.append(document.doc_id)
        remember(alice, f"a-{number}", *([f"z-{number}"] if number < 3 else []), "m-4")
        if number == 2:
            with bind_tenant(alice.user_hash):
                delete_document("m-7")
    assert [doc_id for doc_id in seen if doc_id.startswith("m")] == [f"m-{n}" for n in (0, 1, 2, 3, 4, 5, 6, 8)]
    assert len(seen) == len(set(seen))


def test_no_transaction_and_no_connection_is_held_while_a_line_is_out(alice, monkeypatch):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 2)
    remember(alice, *(f"doc-{number}" for number in range(5)))
    response = alice.get("memory/export")
    lines = 0
    for _ in response.streaming_content:
        lines += 1
        assert connections["default"].connection is None
        assert rls._open.get() == {} and rls._bound.get() is None
    assert lines == 5


def test_two_users_exports_read_in_turns_in_one_thread_do_not_mix(alice, bob, monkeypatch):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 1)
    for person in (alice, bob):
        remember(person, "a", "b", "c")
    streams = [person.get("memory/export").streaming_content for person in (alice, bob)]
    lines = [tuple(map(json.loads, pair)) for pair in zip(*streams, strict=True)]
    assert len(lines) == 3
    for ours, theirs in lines:
        assert alice.user_id in ours["text"] and bob.user_id in theirs["text"]


def spoil(person, doc_id: str) -> None:
    """Flip a bit of the last byte of one document's text."""
    with tenant_transaction(person.user_hash, write=True) as tx:
        changed = tx.execute(
            "UPDATE memory_chunks SET text_cipher = set_byte(text_cipher, octet_length(text_cipher) - 1,"
            " get_byte(text_cipher, octet_length(text_cipher) - 1) # 1) WHERE user_hash = %s AND doc_id = %s",
            [person.user_hash, doc_id],
        )
        tx.sync()
        assert changed.rowcount == 1


def test_a_document_that_does_not_open_breaks_the_export_off_and_is_quarantined(alice, monkeypatch):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 2)
    remember(alice, *(f"doc-{number}" for number in range(6)))
    spoil(alice, "doc-3")
    lines = []
    with pytest.raises(DecryptionFailed):
        for line in alice.get("memory/export").streaming_content:
            lines.append(json.loads(line)["doc_id"])
    assert lines == ["doc-0", "doc-1"]
    assert alice.get("memory/stats").json()["quarantined_chunks"] == 1


def test_what_was_quarantined_before_is_left_out_of_an_export_that_says_so(alice, bob, monkeypatch):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 2)
    remember(alice, *(f"doc-{number}" for number in range(6)))
    remember(bob, "doc-3")
    spoil(alice, "doc-3")
    with pytest.raises(DecryptionFailed):
        b"".join(alice.get("memory/export").streaming_content)
    again = alice.get("memory/export")
    assert again["X-R1-Degraded"] == "quarantined"
    lines = [json.loads(line)["doc_id"] for line in again.streaming_content]
    assert lines == ["doc-0", "doc-1", "doc-2", "doc-4", "doc-5"]
    others = bob.get("memory/export")
    assert "X-R1-Degraded" not in others
    assert [json.loads(line)["doc_id"] for line in others.streaming_content] == ["doc-3"]

    remember(alice, "doc-3")
    healed = alice.get("memory/export")
    assert "X-R1-Degraded" not in healed
    assert len(list(healed.streaming_content)) == 6


def test_what_is_quarantined_during_an_export_that_said_nothing_breaks_it_off_and_is_never_just_left_out(
    alice, monkeypatch
):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 1)
    remember(alice, "a", "b", "c")
    response = alice.get("memory/export")
    assert "X-R1-Degraded" not in response
    lines = iter(response.streaming_content)
    next(lines)
    spoil(alice, "b")
    assert alice.get("memory/documents/b").status_code == 500
    with pytest.raises(DecryptionFailed):
        next(lines)


def test_a_second_damaged_document_breaks_a_degraded_export_off_too_and_is_left_out_the_next_time(alice):
    remember(alice, "a", "b", "c")
    for doc_id in "ab":
        spoil(alice, doc_id)
        assert alice.get("memory/export").status_code == 500
    response = alice.get("memory/export")
    assert (response.status_code, response["X-R1-Degraded"]) == (200, "quarantined")
    assert [json.loads(line)["doc_id"] for line in response.streaming_content] == ["c"]


@pytest.mark.parametrize("spare", [0, 1])
def test_a_body_of_the_very_limit_with_its_time_is_a_line_that_index_takes_back(alice, settings, spare):
    settings.MEMORY_MAX_BODY_BYTES = 3_000
    body = {"doc_id": "big", "text": "", "created_at": "2026-01-01T00:00:00Z"}
    compact = lambda: json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()  # noqa: E731
    room = settings.MEMORY_MAX_BODY_BYTES - len(compact()) - spare
    body["text"] = "zażółć " * (room // 11) + "x" * (room % 11)
    sent = compact()
    assert len(sent) == settings.MEMORY_MAX_BODY_BYTES - spare
    post = lambda raw: alice.client().post("/api/v1/memory/index", raw, content_type="application/json")  # noqa: E731
    assert post(sent).status_code == 201
    assert post(sent + b" " * (spare + 1)).status_code == 413
    [line] = alice.get("memory/export").streaming_content
    assert line == sent + b"\n"
    assert post(line.rstrip(b"\n")).status_code == 200
    assert json.loads(line) == body, "nothing in it that was not sent"


def test_an_export_that_fails_at_once_is_a_problem_document_and_no_stream(alice):
    remember(alice, "doc")
    spoil(alice, "doc")
    refused = alice.get("memory/export")
    assert (refused.status_code, refused.json()["code"]) == (500, "decryption_failed")
    assert alice.user_id not in refused.content.decode()


@pytest.mark.parametrize("comes_back", [False, True])
def test_an_erasure_in_the_middle_breaks_the_export_off(alice, monkeypatch, comes_back):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 1)
    remember(alice, "a", "b", "c")
    lines = iter(alice.get("memory/export").streaming_content)
    next(lines)
    with bind_tenant(alice.user_hash):
        erase_memory()
    if comes_back:
        remember(alice, "b")
    with pytest.raises(KeyUnavailable):
        next(lines)


def test_what_breaks_an_export_off_says_nothing_of_what_it_is_about(alice, monkeypatch, caplog):
    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 1)
    remember(alice, "a", "b")
    lines = iter(alice.get("memory/export").streaming_content)
    next(lines)
    monkeypatch.setattr(export, "_DOCUMENTS", "SELECT 'secret of the database' FROM memory_documents WHERE %s")
    with pytest.raises(Exception) as raised:
        next(lines)
    assert "secret" not in repr(raised.value) and raised.value.__suppress_context__
    assert "broken off" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("application/x-ndjson", "application/x-ndjson"),
        ("*/*", "application/x-ndjson"),
        ("application/*;q=0.5", "application/x-ndjson"),
        ("application/json", "application/x-ndjson"),
        ("application/json, text/plain, */*", "application/x-ndjson"),
        ("text/plain", "text/plain"),
    ],
)
def test_the_answer_is_json_lines_whatever_form_is_asked_for(alice, accept, answered):
    remember(alice, "doc")
    response = alice.client().get("/api/v1/memory/export", headers={"accept": accept})
    assert (response.status_code, response["Content-Type"]) == (200, f"{answered}; charset=utf-8")
    assert json.loads(b"".join(response.streaming_content))["doc_id"] == "doc"


def test_a_form_that_lines_do_not_have_is_refused_with_those_they_have(alice):
    response = alice.client().get("/api/v1/memory/export", headers={"accept": "text/html"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert "application/x-ndjson, application/json, text/plain" in response.json()["detail"]


def test_an_export_needs_the_scope_to_read(alice):
    assert alice.client(scope="memory:write").get("/api/v1/memory/export").status_code == 403


def test_an_export_takes_no_more_memory_than_a_few_pages_however_much_there_is(alice, settings):
    """100 documents of 200,000 characters, 20 MB, through the view, line by line."""
    settings.MEMORY_LEXICAL = False
    text = "x" * 3_999 + "\n"
    passages = [Slice(text, start, start + len(text)) for start in range(0, 50 * len(text), len(text))]
    vectors = unit_vector()[None, :].repeat(50, 0)
    with tenant_transaction(alice.user_hash, write=True):
        for number in range(100):
            doc_id = f"doc-{number:03}"
            index_memory_batch(connections["default"], alice.user_id, doc_id, "api", passages, vectors)
    stream = iter(alice.get("memory/export").streaming_content)
    exported_bytes = len(next(stream))
    tracemalloc.start()
    try:
        exported_bytes += sum(len(line) for line in stream)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert exported_bytes > 20_000_000
    assert peak_bytes < 5_000_000


def test_a_user_exports_one_at_a_time_and_others_meanwhile(alice, bob):
    remember(alice, "doc")
    first = alice.get("memory/export")
    refused = alice.get("memory/export")
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert int(refused["Retry-After"]) > 0
    assert exported(bob) == []
    first.close()
    assert len(exported(alice)) == 1
    assert len(exported(alice)) == 1, "one that came to its end gives its slot back too"


def test_a_worker_with_few_threads_carries_one_export(alice, bob, settings):
    settings.GUNICORN_THREADS = 4
    first = alice.get("memory/export")
    assert (first.status_code, bob.get("memory/export").status_code) == (200, 503)
    first.close()
    assert exported(bob) == []


def test_an_export_that_did_not_begin_keeps_no_slot(alice):
    remember(alice, "a", "b")
    for doc_id in "ab":
        spoil(alice, doc_id)
        assert alice.get("memory/export").status_code == 500
    assert exports.taken == 0


def test_a_reader_that_takes_too_long_in_all_is_broken_off(alice, monkeypatch):
    monkeypatch.setattr(export_body, "EXPORT_MAX_SECONDS", 0.5)
    remember(alice, "a", "b")
    timeouts = metrics.errors.labels("export", "timeout")._value.get()
    lines = iter(alice.get("memory/export").streaming_content)
    next(lines)
    time.sleep(0.6)
    with pytest.raises(TimeoutError):
        next(lines)
    assert exports.taken == 0
    assert metrics.errors.labels("export", "timeout")._value.get() == timeouts + 1


def test_a_long_line_goes_out_in_pieces_that_each_have_their_own_time(alice):
    assert alice.index("long", "Short.", metadata={"note": "é" * 20_000}).status_code == 201
    pieces = list(alice.get("memory/export").streaming_content)
    assert [len(piece) for piece in pieces[:-1]] == [PIECE_BYTES] * 2
    assert json.loads(b"".join(pieces))["metadata"] == {"note": "é" * 20_000}
