"""Documents made from others go with any document they were made from, and with nothing else."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from memory.errors import InvalidInput, NotFound
from memory.indexing.derived import _MADE_FROM, DERIVED_MAX_IDS
from memory.retrieval.plan import Plan
from memory.rls import bind_tenant, tenant_transaction
from memory.services.forget import delete_document
from tests.api.test_listing import keep
from tests.db.memories import flush_terms, remember_requests, remember_summary

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])

LEXICAL = ("memory_lexical_chunks", "memory_lexical_segments", "memory_lexical_blocks")


def summarize(person, doc_id: str, *covered: str, **fields) -> None:
    keep(person, doc_id, source="summary", metadata={"derived_from": list(covered)}, **fields)


def listed(person) -> set[str]:
    return {found["doc_id"] for found in person.get("memory/documents?limit=200").json()["results"]}


def derived(person) -> dict[str, list[str]]:
    found = person.get("memory/documents?limit=200").json()["results"]
    return {document["doc_id"]: document["derived_from"] for document in found}


def assert_counts_are_true(superuser, person) -> int:
    """What the tenant's row claims, against the rows; how many documents."""
    claimed = superuser.execute(
        "SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s", [person.user_hash]
    ).fetchone()
    actual = superuser.execute(
        "SELECT (SELECT count(*) FROM memory_documents WHERE user_hash = %(user)s),"
        " (SELECT count(*) FROM memory_chunks WHERE user_hash = %(user)s)", {"user": person.user_hash},
    ).fetchone()  # fmt: skip
    assert claimed == actual
    living = superuser.execute(
        "SELECT (SELECT count(*) FROM memory_lexical_chunks WHERE user_hash = %(user)s)"
        " + coalesce((SELECT sum(live_chunks) FROM memory_lexical_segments WHERE user_hash = %(user)s), 0)",
        {"user": person.user_hash},
    ).fetchone()[0]
    assert living == actual[1], "every chunk has its terms, and no term outlives its chunk"
    return actual[0]


@pytest.fixture
def summarized(alice):
    """Four documents; one summary of a and b, one of c, one of that summary; d is in none."""
    for doc_id in "abcd":
        keep(alice, doc_id)
    summarize(alice, "sum-ab", "a", "b")
    summarize(alice, "sum-c", "c")
    summarize(alice, "sum-sum", "sum-ab")
    return alice


@pytest.mark.parametrize("in_segments", [False, True])
def test_deleting_a_covered_document_takes_its_summary_and_what_was_made_from_that(summarized, superuser, in_segments):
    if in_segments:
        assert flush_terms(summarized, chunks=2)
    assert summarized.delete("memory/documents/b").status_code == 204
    assert listed(summarized) == {"a", "c", "d", "sum-c"}
    assert assert_counts_are_true(superuser, summarized) == 4


def test_replacing_a_covered_document_takes_its_summary_and_keeps_the_new_version(summarized, superuser):
    keep(summarized, "a", minute=5)
    assert listed(summarized) == {"a", "b", "c", "d", "sum-c"}
    assert assert_counts_are_true(superuser, summarized) == 5


def test_deleting_or_replacing_a_summary_leaves_what_it_covers(summarized, superuser):
    assert summarized.delete("memory/documents/sum-sum").status_code == 204
    assert summarized.delete("memory/documents/sum-c").status_code == 204
    assert listed(summarized) == {"a", "b", "c", "d", "sum-ab"}
    summarize(summarized, "sum-ab", "a", "b", minute=9)
    assert listed(summarized) == {"a", "b", "c", "d", "sum-ab"}
    assert assert_counts_are_true(superuser, summarized) == 5


def test_documents_that_name_each_other_go_together_and_only_once(alice, superuser):
    summarize(alice, "one", "two")
    summarize(alice, "two", "one")
    summarize(alice, "itself", "itself")
    summarize(alice, "itself", "itself", minute=1)
    assert listed(alice) == {"one", "two", "itself"}
    assert derived(alice) == {"one": ["two"], "two": ["one"], "itself": []}
    assert alice.delete("memory/documents/one").status_code == 204
    assert listed(alice) == {"itself"}
    assert alice.delete("memory/documents/itself").status_code == 204
    assert assert_counts_are_true(superuser, alice) == 0


@pytest.mark.parametrize("written", ["b", "a"])
def test_a_document_of_a_circle_that_is_written_again_stays_and_the_rest_of_the_circle_goes(alice, superuser, written):
    """Over several calls: one call that holds a circle is refused."""
    summarize(alice, "a", "b")
    summarize(alice, "b", "a", "c")
    summarize(alice, "outside", "c")
    summarize(alice, "after-a", "a", "b")
    assert listed(alice) == {"a", "b", "after-a", "outside"}
    summarize(alice, written, "b" if written == "a" else "a", minute=2)
    assert listed(alice) == {written, "outside"}
    assert assert_counts_are_true(superuser, alice) == 2


@pytest.mark.parametrize("in_segments", [False, True])
def test_a_long_chain_goes_as_a_whole_and_in_as_many_statements_as_a_short_one(alice, bob, superuser, in_segments):
    spent = {}
    for person, length in ((bob, 1), (alice, 60)):
        keep(person, "0")
        keep(person, "other")
        for number in range(length):
            summarize(person, f"{number + 1}", f"{number}")
        if in_segments:
            flush_terms(person, chunks=length + 1)
        with bind_tenant(person.user_hash), CaptureQueriesContext(connections["default"]) as captured:
            delete_document("0")
        spent[person] = len(captured)
        assert listed(person) == {"other"}
        assert assert_counts_are_true(superuser, person) == 1
    assert spent[alice] == spent[bob] > 0


def test_a_summary_of_many_that_were_made_from_one_goes_once(alice, superuser):
    """A lattice: thirty ways lead from the bottom to the top."""
    keep(alice, "bottom")
    for number in range(30):
        summarize(alice, f"middle-{number}", "bottom", f"middle-{number - 1}")
    summarize(alice, "top", *(f"middle-{number}" for number in range(30)))
    keep(alice, "bottom", minute=1)
    assert listed(alice) == {"bottom"}
    assert assert_counts_are_true(superuser, alice) == 1


NOT_IDS = {
    "a secret with a line break": ["a", "BEGIN PRIVATE KEY\nMIIE"],
    "a control character": ["a", "x\x1b[2J"],
    "a C1 control character": ["a", "x\x85"],
    "no segment": ["a", ""],
    "an empty segment": ["a", "b//c"],
    "a dot segment": ["a", "../b"],
    "a name too long": ["a", "x" * 257],
    "a number": ["a", 5],
    "a list": ["a", ["b"]],
    "null": ["a", None],
    "an object": {"a": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", NOT_IDS)
def test_metadata_that_holds_anything_but_ids_is_metadata_and_nothing_of_it_stands_in_clear(alice, superuser, kind):
    keep(alice, "a")
    sent = {"doc_id": "odd", "text": "A summary?", "source": "summary", "metadata": {"derived_from": NOT_IDS[kind]}}
    assert alice.post("memory/index", sent).status_code == 201
    in_clear = "SELECT count(*) FROM memory_document_sources WHERE user_hash = %s"
    assert superuser.execute(in_clear, [alice.user_hash]).fetchone() == (0,)
    assert alice.get("memory/documents/odd").json()["metadata"] == sent["metadata"]
    assert alice.delete("memory/documents/a").status_code == 204
    assert listed(alice) == {"odd"}


def test_every_id_that_a_document_can_have_can_be_named(alice):
    odd = ["x" * 256, "🙂" * 256, "a/b c/.d", "zażółć gęślą", '"\\\u2028']
    ids = odd + [f"doc-{number:04}" for number in range(DERIVED_MAX_IDS - len(odd))]
    for doc_id in odd:
        keep(alice, doc_id)
    summarize(alice, "sum", *ids, *ids)
    assert derived(alice)["sum"] == ids
    assert alice.delete("memory/documents/zażółć gęślą").status_code == 204
    assert "sum" not in listed(alice)


def test_more_ids_than_a_summary_covers_are_refused_by_name_and_nothing_is_stored(alice, superuser):
    keep(alice, "doc-0")
    ids = [f"doc-{number}" for number in range(DERIVED_MAX_IDS + 1)]
    sent = {"doc_id": "sum", "text": "A summary.", "source": "summary", "metadata": {"derived_from": ids}}
    for body, field in (
        (sent, "metadata.derived_from"),
        ({"documents": [{"doc_id": "one", "text": "One."}, sent]}, "documents[1].metadata.derived_from"),
    ):
        refused = alice.post("memory/index", body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
        assert [error["field"] for error in refused.json()["errors"]] == [field]
    assert listed(alice) == {"doc-0"}
    assert alice.post("memory/index", sent | {"source": "notes"}).status_code == 201, "elsewhere it is only metadata"
    assert assert_counts_are_true(superuser, alice) == 2


def test_the_library_refuses_as_many(alice):
    ids = [f"doc-{number}" for number in range(DERIVED_MAX_IDS + 1)]
    with pytest.raises(InvalidInput, match="at most 200"):
        remember_summary(alice, "sum", *ids)
    remember_summary(alice, "sum", *ids[1:])
    assert derived(alice) == {"sum": ids[1:]}


def test_what_a_document_was_made_from_is_kept_anew_with_each_version_and_goes_with_it(alice, superuser):
    pairs = "SELECT doc_id, source_doc_id FROM memory_document_sources WHERE user_hash = %s ORDER BY doc_id, position"
    for doc_id in "abc":
        keep(alice, doc_id)
    summarize(alice, "sum", "b", "a")
    summarize(alice, "sum", "c", "b")
    summarize(alice, "sum-sum", "sum")
    assert superuser.execute(pairs, [alice.user_hash]).fetchall() == [("sum", "c"), ("sum", "b"), ("sum-sum", "sum")]
    assert alice.delete("memory/documents/a").status_code == 204
    assert listed(alice) == {"b", "c", "sum", "sum-sum"}
    keep(alice, "sum")
    assert superuser.execute(pairs, [alice.user_hash]).fetchall() == []
    assert listed(alice) == {"b", "c", "sum"}
    summarize(alice, "sum", "c")
    assert alice.delete("memory/documents/c").status_code == 204
    assert superuser.execute(pairs, [alice.user_hash]).fetchall() == []


def test_a_replace_looks_up_what_goes_and_reads_none_of_the_users_other_summaries(alice, superuser):
    """As r1_app under row-level security, where only LEAKPROOF comparisons become index conditions."""
    for doc_id in "ab":
        keep(alice, doc_id)
    summarize(alice, "sum-a", "a")
    with tenant_transaction(alice.user_hash, write=True) as tx:
        tx.execute(
            "INSERT INTO memory_document_sources (user_hash, doc_id, source_doc_id, position)"
            " SELECT %s, 'sum-' || made, 'b-' || n, n FROM generate_series(1, 100) made, generate_series(1, 200) n",
            [tx.user_hash],
        )
    superuser.execute("ANALYZE memory_document_sources")
    for doc_id, going in (("b", 0), ("a", 1)):
        with tenant_transaction(alice.user_hash) as tx:
            statement = "EXPLAIN (ANALYZE, FORMAT JSON) " + _MADE_FROM
            tree = tx.execute(statement, {"user_hash": tx.user_hash, "doc_id": doc_id}).fetchone()[0]
        plan = Plan((json.loads(tree) if isinstance(tree, str) else tree)[0], "")
        scans = [scan for scan, _ in plan.scans("memory_document_sources") if scan["Node Type"] != "Bitmap Index Scan"]
        assert len(scans) == 1
        condition = scans[0].get("Index Cond") or scans[0]["Recheck Cond"]
        assert "source_doc_id = gone" in condition
        read_in_vain = scans[0].get("Rows Removed by Filter", 0) + scans[0].get("Rows Removed by Index Recheck", 0)
        assert scans[0]["Actual Rows"] * scans[0]["Actual Loops"] == going and not read_in_vain


def test_only_a_summary_is_made_from_others_whatever_metadata_says(alice):
    keep(alice, "a")
    keep(alice, "note", metadata={"derived_from": ["a"]})
    keep(alice, "odd", source="summary", metadata={"derived_from": "a"})
    assert alice.delete("memory/documents/a").status_code == 204
    assert listed(alice) == {"note", "odd"}


def test_another_users_documents_of_the_same_names_stay(summarized, bob, superuser):
    keep(bob, "b")
    summarize(bob, "sum-ab", "a", "b")
    assert bob.delete("memory/documents/sum-sum").status_code == 404
    assert summarized.delete("memory/documents/b").status_code == 204
    assert listed(bob) == {"b", "sum-ab"}
    assert assert_counts_are_true(superuser, bob) == 2


def test_answered_idempotency_keys_outlive_the_document(summarized):
    remember_requests(summarized)
    assert summarized.delete("memory/documents/b").status_code == 204
    with tenant_transaction(summarized.user_hash) as tx:
        kept = tx.execute("SELECT count(*) FROM memory_idempotency WHERE user_hash = %s", [tx.user_hash])
        assert kept.fetchone() == (1,)


def test_no_term_of_a_deleted_memory_is_left(summarized, superuser):
    flush_terms(summarized, chunks=3)
    for doc_id in "abcd":
        assert summarized.delete(f"memory/documents/{doc_id}").status_code == 204
    assert assert_counts_are_true(superuser, summarized) == 0
    for table in LEXICAL:
        left = superuser.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [summarized.user_hash])
        assert left.fetchone() == (0,), table


def test_deleters_and_writers_of_documents_that_summaries_join_never_deadlock_nor_miscount(alice, superuser):
    """Two deleters in opposite order, a writer of what is covered and a writer of the summaries, thirty times."""
    start = threading.Barrier(4, timeout=30)

    def at_once(call):
        try:
            start.wait()
            call()
        finally:
            connections.close_all()

    def delete(doc_ids: str) -> None:
        for doc_id in doc_ids:
            with bind_tenant(alice.user_hash), suppress(NotFound):
                delete_document(doc_id)

    def write() -> None:
        for doc_id in "cab":
            keep(alice, doc_id, minute=1)

    def summarize_all() -> None:
        for number, covered in enumerate(("ab", "bc", "ca")):
            summarize(alice, f"sum-{number}", *covered)

    for doc_id in "abc":
        keep(alice, doc_id)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(30):
            calls = [lambda: delete("abc"), lambda: delete("cba"), write, summarize_all]
            for future in [pool.submit(at_once, call) for call in calls]:
                future.result(timeout=60)
            assert_counts_are_true(superuser, alice)
    delete("abc")
    assert assert_counts_are_true(superuser, alice) <= 3
