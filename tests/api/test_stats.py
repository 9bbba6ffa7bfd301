"""GET /memory/stats: how much a memory holds, of one moment, nothing opened."""

from __future__ import annotations

import pytest

from memory.rls import tenant_transaction
from memory.services import stats
from tests.api.test_listing import keep

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])

NOTHING = {
    "documents": 0, "derived_documents": 0, "chunks": 0, "chars": 0, "threads": 0, "sources": {}, "oldest": None,
    "newest": None, "quarantined_chunks": 0,
}  # fmt: skip


def test_a_user_who_stored_nothing_has_nothing(stranger):
    response = stranger.get("memory/stats")
    assert (response.status_code, response.json()) == (200, NOTHING)


def test_the_numbers_are_those_of_the_users_own_documents(alice, bob):
    keep(bob, "bobs")
    keep(alice, "a", minute=1, thread_id="t1")
    keep(alice, "b", minute=3, thread_id="t1", source="mail")
    keep(alice, "c", minute=2, thread_id="t2", source="mail")
    keep(alice, "s", minute=4, source="summary", metadata={"derived_from": ["a", "b"]})
    assert alice.get("memory/stats").json() == {
        "documents": 4, "derived_documents": 1, "chunks": 4, "chars": 4 * len("What is kept under a."), "threads": 2,
        "sources": {"mail": 2, "notes": 1, "summary": 1}, "oldest": "2026-01-01T12:01:00Z",
        "newest": "2026-01-01T12:04:00Z", "quarantined_chunks": 0,
    }  # fmt: skip
    assert alice.delete("memory/documents/a").status_code == 204
    left = alice.get("memory/stats").json()
    assert (left["documents"], left["derived_documents"], left["sources"]) == (2, 0, {"mail": 2})


def test_chunks_that_were_set_aside_are_counted(alice):
    keep(alice, "a")
    with tenant_transaction(alice.user_hash, write=True) as tx:
        tx.execute("UPDATE memory_chunks SET quarantined_at = now() WHERE user_hash = %s", [alice.user_hash])
    assert alice.get("memory/stats").json()["quarantined_chunks"] == 1


def test_of_very_many_sources_those_with_the_most_documents_are_named(alice, monkeypatch):
    monkeypatch.setattr(stats, "SOURCES_MAX", 2)
    for number, source in enumerate(["mail", "mail", "notes", "notes", "api"]):
        keep(alice, f"doc-{number}", source=source)
    found = alice.get("memory/stats").json()
    assert (found["documents"], found["sources"]) == (5, {"mail": 2, "notes": 2})


def test_stats_need_the_scope_to_read(alice):
    assert alice.client(scope="memory:write").get("/api/v1/memory/stats").status_code == 403
