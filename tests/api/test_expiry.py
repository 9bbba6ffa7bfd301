"""A document with `expires_at`: seen until then by its user, afterwards by nobody, and deleted by the clean-up."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import call_command

from memory.models import Chunk
from memory.rls import bind_tenant, tenant_transaction
from tests.factories import DocumentFactory

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])

TEXT = "The code of the cellar door is 4711."


def soon(**ahead) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


def expire(superuser, person, doc_id: str) -> None:
    """Let the time of a document be up, as if it had gone by."""
    for table in ("memory_documents", "memory_chunks"):
        superuser.execute(
            f"UPDATE {table} SET expires_at = now() - interval '1 second' WHERE user_hash = %s AND doc_id = %s",
            [person.user_hash, doc_id],
        )


def found(person, **fields) -> list[str]:
    response = person.query("the code of the cellar door", top_k=10, **fields)
    assert response.status_code == 200, response.content
    return [result["doc_id"] for result in response.json()["results"]]


@pytest.fixture
def keeper(alice):
    """Two documents that answer the same question, one of which expires."""
    alice.index("kept", "The cellar door is green.", thread_id="t", created_at="2026-03-01T10:00:00Z")
    answer = alice.index("door", TEXT, thread_id="t", created_at="2026-03-01T10:01:00Z", expires_at=soon(hours=1))
    assert answer.status_code == 201, answer.content
    return alice


def test_until_then_it_is_a_document_like_any_other_and_says_when(keeper):
    assert found(keeper)[0] == "door"
    assert keeper.get("memory/documents/door").json()["expires_at"].endswith("Z")
    listed = {each["doc_id"]: each for each in keeper.get("memory/documents").json()["results"]}
    assert "expires_at" in listed["door"]
    assert "expires_at" not in listed["kept"]


def test_from_then_on_nobody_sees_it(keeper, superuser):
    expire(superuser, keeper, "door")
    assert found(keeper) == found(keeper, context=False) == ["kept"]
    assert keeper.get("memory/documents/door").status_code == 404
    assert [each["doc_id"] for each in keeper.get("memory/documents").json()["results"]] == ["kept"]
    assert b"is 4711." not in b"".join(keeper.get("memory/export").streaming_content)
    assert keeper.post("memory/summarize", {"doc_ids": ["door"]}).status_code == 404
    assert keeper.post("memory/entities", {"doc_id": "door"}).status_code == 404
    of_thread = keeper.post("memory/summarize", {"thread_id": "t", "store": False}).json()
    assert of_thread["covers"] == {"documents": 1, "chunks": 1}
    [result] = keeper.query("what colour is the cellar door", surroundings=1).json()["results"]
    assert (result["before"], result["after"]) == ([], [])


def test_a_summary_expires_with_the_first_of_what_it_covers(keeper, superuser):
    summary = keeper.post("memory/summarize", {"thread_id": "t"}).json()["doc_id"]
    assert (
        keeper.get(f"memory/documents/{summary}").json()["expires_at"]
        == keeper.get("memory/documents/door").json()["expires_at"]
    )


def test_the_clean_up_deletes_it_with_what_was_made_from_it_and_nobody_elses(keeper, bob, superuser):
    bob.index("door", TEXT, expires_at=soon(hours=1))
    summary = keeper.post("memory/summarize", {"thread_id": "t"}).json()["doc_id"]
    expire(superuser, keeper, "door")
    call_command("prune_expired")
    rows = superuser.execute("SELECT doc_id FROM memory_documents WHERE user_hash = %s", [keeper.user_hash]).fetchall()
    assert [doc_id for (doc_id,) in rows] == ["kept"], f"the summary {summary} went too"
    with bind_tenant(keeper.user_hash), tenant_transaction(keeper.user_hash):
        assert Chunk.objects.count() == 1
    stats = keeper.get("memory/stats").json()
    assert (stats["documents"], stats["chunks"]) == (1, 1)
    assert found(bob) == ["door"]


def test_a_user_who_is_being_erased_keeps_the_clean_up_from_nobody_else(keeper, bob, superuser, capsys):
    bob.index("door", TEXT, expires_at=soon(hours=1))
    for person in (keeper, bob):
        expire(superuser, person, "door")
    superuser.execute("UPDATE memory_tenants SET state = 'erasing' WHERE user_hash = %s", [keeper.user_hash])
    try:
        with pytest.raises(SystemExit) as ended:
            call_command("prune_expired")
    finally:
        superuser.execute("UPDATE memory_tenants SET state = 'active' WHERE user_hash = %s", [keeper.user_hash])
    assert ended.value.code == 4
    assert json.loads(capsys.readouterr().out)["users_left"] == 1
    left = "SELECT count(*) FROM memory_documents WHERE user_hash = %s"
    assert superuser.execute(left, [bob.user_hash]).fetchone()[0] == 0
    call_command("prune_expired")
    assert superuser.execute(left, [keeper.user_hash]).fetchone()[0] == 1


def test_what_has_expired_takes_no_place_among_the_candidates(alice, superuser):
    for number in range(0, 60, 20):
        documents = [{"doc_id": f"gone/{n}", "text": "zebra zebra"} for n in range(number, number + 20)]
        assert alice.post("memory/index", {"documents": documents}).status_code == 201
    near = [{"doc_id": f"near/{n}", "text": f"A horse with stripes runs over the plain number {n}."} for n in range(40)]
    alice.post("memory/index", {"documents": near})
    alice.index("here", "Invoice 4711: one zebra crossing painted, bolts, screws, asphalt, VAT.")
    superuser.execute(
        "UPDATE memory_chunks SET expires_at = now() WHERE user_hash = %s AND doc_id LIKE 'gone/%%'", [alice.user_hash]
    )
    results = alice.query("zebra", top_k=50, rerank=False).json()["results"]
    assert "here" in {result["doc_id"] for result in results}


def test_a_dry_run_of_the_clean_up_counts_it_and_leaves_it(keeper, superuser, capsys):
    expire(superuser, keeper, "door")
    call_command("prune_expired", "--dry-run")
    assert json.loads(capsys.readouterr().out)["documents"] >= 1
    left = superuser.execute("SELECT count(*) FROM memory_documents WHERE user_hash = %s", [keeper.user_hash])
    assert left.fetchone()[0] == 2


def test_a_replacement_lives_as_its_own_version_says(keeper, superuser):
    expire(superuser, keeper, "door")
    assert keeper.index("door", TEXT, thread_id="t").status_code == 200
    call_command("prune_expired")
    assert "door" in found(keeper)
    assert "expires_at" not in keeper.get("memory/documents/door").json()


def test_what_expires_before_it_began_is_refused_and_says_which(alice):
    past = soon(hours=-1)
    response = alice.index("door", TEXT, expires_at=past)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["expires_at"]
    batch = [{"doc_id": "a", "text": "a"}, {"doc_id": "b", "text": "b", "created_at": soon(), "expires_at": past}]
    response = alice.post("memory/index", {"documents": batch})
    assert [error["field"] for error in response.json()["errors"]] == ["documents.1.expires_at"]
    assert alice.get("memory/documents").json()["results"] == []


def test_an_export_carries_it_and_is_taken_back_when_the_time_is_up(alice):
    DocumentFactory(person=alice, doc_id="old", text="The tent is dry.", created_at=datetime(2020, 1, 1, tzinfo=UTC))
    said = alice.index("camp", "The tent is wet.", created_at="2020-01-01T00:00:00Z", expires_at="2020-02-01T00:00:00Z")
    assert said.status_code == 201
    assert found(alice) == ["old"]
    alice.index("camp", "The tent is wet.", created_at="2020-01-01T00:00:00Z", expires_at="2199-02-01T00:00:00Z")
    assert b'"expires_at":"2199-02-01T00:00:00Z"' in b"".join(alice.get("memory/export").streaming_content)


def test_the_same_key_and_body_is_said_again_and_another_expiry_is_another_body(alice):
    body = {"doc_id": "door", "text": TEXT, "expires_at": soon(hours=1)}
    first = alice.post("memory/index", body, **{"Idempotency-Key": "k"})
    assert alice.post("memory/index", body, **{"Idempotency-Key": "k"}).json() == first.json()
    other = alice.post("memory/index", body | {"expires_at": soon(hours=2)}, **{"Idempotency-Key": "k"})
    assert other.status_code == 409
