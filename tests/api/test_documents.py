"""GET and DELETE /memory/documents/<doc_id>: missing and foreign are the same, deleted is gone."""

import pytest
from django.db import connections

from memory.rls import tenant_transaction

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "backup"])

TEXT = "Grandmother's recipe needs two lemons and a cup of poppy seeds."


def counts(person) -> tuple[int, int, int, int]:
    """(documents, chunks) as counted in the tenant's row and as they are."""
    with tenant_transaction(person.user_hash) as tx:
        kept = tx.execute("SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s", [tx.user_hash])
        documents = tx.execute("SELECT count(*) FROM memory_documents WHERE user_hash = %s", [tx.user_hash])
        chunks = tx.execute("SELECT count(*) FROM memory_chunks WHERE user_hash = %s", [tx.user_hash])
        return *kept.fetchone(), documents.fetchone()[0], chunks.fetchone()[0]


def test_a_document_reads_back_as_sent(alice):
    indexed = alice.index("family/recipe", TEXT, source="notes", thread_id="cake", metadata={"stars": 5},
                          created_at="2025-12-24T18:00:00+01:00").json()  # fmt: skip
    stored = alice.get("memory/documents/family/recipe").json()
    assert stored.pop("updated_at").endswith("Z")
    assert stored == {
        "doc_id": "family/recipe", "source": "notes", "thread_id": "cake", "text": TEXT, "metadata": {"stars": 5},
        "chunks": 1, "chunk_ids": indexed["chunk_ids"], "created_at": "2025-12-24T17:00:00Z",
    }  # fmt: skip


def test_another_users_document_looks_exactly_like_a_missing_one(alice, bob):
    alice.index("recipe", TEXT)
    with connections["backup"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM memory_documents WHERE user_hash = %s", [alice.user_hash])
        assert cursor.fetchone()[0] == 1
    for call in (bob.get, bob.delete):
        foreign, missing = call("memory/documents/recipe"), call("memory/documents/nothing")
        assert foreign.status_code == missing.status_code == 404
        bodies = [response.json() for response in (foreign, missing)]
        for body in bodies:
            body.pop("request_id")
        assert bodies[0] == bodies[1]
    assert alice.get("memory/documents/recipe").json()["text"] == TEXT


def test_a_deleted_document_is_gone_from_answers_and_counts(alice):
    alice.index("recipe", TEXT)
    alice.index("other", "The spare key hangs behind the blue coat.")
    assert alice.delete("memory/documents/recipe").status_code == 204
    assert alice.get("memory/documents/recipe").status_code == 404
    assert alice.delete("memory/documents/recipe").status_code == 404
    assert [r["doc_id"] for r in alice.query("poppy seeds").json()["results"]] == ["other"]
    assert counts(alice) == (1, 1, 1, 1)


def test_counts_follow_replacements(alice):
    alice.index("recipe", TEXT * 200)
    many = counts(alice)
    alice.index("recipe", TEXT)
    assert many[0] == many[2] == 1
    assert many[1] == many[3] > 1
    assert counts(alice) == (1, 1, 1, 1)


@pytest.mark.parametrize("doc_id", ["a//b", "./a", "a/../b", "a/", "x" * 257, "a%00b", "a%0Ab"])
def test_an_impossible_doc_id_is_422(alice, doc_id):
    assert alice.get(f"memory/documents/{doc_id}").status_code == 422
