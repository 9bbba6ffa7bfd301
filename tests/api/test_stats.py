"""GET /memory/stats: how much a memory holds, of one moment, nothing opened."""

from __future__ import annotations

import pytest

from memory.admission.rate import Rate
from memory.rls import tenant_transaction
from memory.services import stats
from tests.api.test_listing import keep

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])

NOTHING = {
    "documents": 0, "derived_documents": 0, "chunks": 0, "chars": 0, "threads": 0, "sources": {}, "oldest": None,
    "newest": None, "quarantined_chunks": 0,
}  # fmt: skip
UNLIMITED = dict.fromkeys(("query", "index", "chunks", "memory", "default"))


def left(chunks: int) -> dict:
    """What is left of the suite's own quota and rates, which are the defaults and off."""
    return {"quota": {"chunks": chunks, "max_chunks": 1_000_000}, "rates": UNLIMITED}


def test_a_user_who_stored_nothing_has_nothing(stranger):
    response = stranger.get("memory/stats")
    assert (response.status_code, response.json()) == (200, NOTHING | left(0))


def test_the_numbers_are_those_of_the_users_own_documents(alice, bob):
    keep(bob, "bobs")
    keep(alice, "a", minute=1, thread_id="t1")
    keep(alice, "b", minute=3, thread_id="t1", source="mail")
    keep(alice, "c", minute=2, thread_id="t2", source="mail")
    keep(alice, "s", minute=4, source="summary", metadata={"derived_from": ["a", "b"]})
    assert alice.get("memory/stats").json() == {
        "documents": 4, "derived_documents": 1, "chunks": 4, "chars": 4 * len("What is kept under a."), "threads": 2,
        "sources": {"mail": 2, "notes": 1, "summary": 1}, "oldest": "2026-01-01T12:01:00Z",
        "newest": "2026-01-01T12:04:00Z", "quarantined_chunks": 0, **left(4),
    }  # fmt: skip
    assert alice.delete("memory/documents/a").status_code == 204
    kept = alice.get("memory/stats").json()
    assert (kept["documents"], kept["derived_documents"], kept["sources"]) == (2, 0, {"mail": 2})
    assert kept["quota"]["chunks"] == 2


def test_chunks_that_were_quarantined_are_counted(alice):
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


def test_what_is_left_of_each_rate_is_told_and_only_looking_costs_a_token(alice, bob, settings):
    settings.MEMORY_RATE_QUERY, settings.MEMORY_RATE_INDEX = Rate(20, 3600), Rate(10, 7200)
    settings.MEMORY_RATE_CHUNKS, settings.MEMORY_RATE_DEFAULT = Rate(500, 3600), Rate(30, 3600)
    keep(bob, "bobs")
    assert alice.post("memory/index", {"documents": [{"doc_id": d, "text": "Calm."} for d in "abc"]}).status_code == 201
    alice.query("calm")
    found = [alice.get("memory/stats").json()["rates"] for _ in range(2)]
    assert found[1] == {
        "query": {"limit": 20, "period_seconds": 3600, "remaining": 19},
        "index": {"limit": 10, "period_seconds": 7200, "remaining": 9},
        "chunks": {"limit": 500, "period_seconds": 3600, "remaining": 497},
        "memory": {"limit": 30, "period_seconds": 3600, "remaining": 28},
        "default": {"limit": 30, "period_seconds": 3600, "remaining": 30},
    }
    assert found[0] == found[1] | {"memory": found[1]["memory"] | {"remaining": 29}}


def test_a_bucket_that_was_left_alone_is_told_to_be_full_and_never_fuller(alice, superuser, settings):
    settings.MEMORY_RATE_QUERY = Rate(30, 3600)
    alice.query("calm")
    superuser.execute(
        "UPDATE memory_rate_buckets SET updated_at = updated_at - interval '10 days' WHERE user_hash = %s",
        [alice.user_hash],
    )
    assert alice.get("memory/stats").json()["rates"]["query"]["remaining"] == 30
    settings.MEMORY_RATE_QUERY = Rate(7, 3600)
    assert alice.get("memory/stats").json()["rates"]["query"]["remaining"] == 7


def test_stats_need_the_scope_to_read(alice):
    assert alice.client(scope="memory:write").get("/api/v1/memory/stats").status_code == 403
