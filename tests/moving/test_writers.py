"""Whoever writes while a user is being moved loses nothing, and what he deletes stays deleted."""

from __future__ import annotations

import threading

import pytest

from memory.moving import reindex
from memory.moving.move import MoveLost
from memory.rls import bind_tenant
from memory.services.query import MemoryQuery, query_memory
from tests.api.test_erase import rows
from tests.moving.memories import exported, reindexed, rows_by_space

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

STEPS = ("before the first copy", "after the first copy", "between the rounds and the switch", "after the switch")


@pytest.fixture
def at_step(monkeypatch):
    """Let something happen at one of STEPS of the next move."""

    def arrange(step: str, happens) -> list[str]:
        happened: list[str] = []

        def once() -> None:
            if not happened:
                happened.append(step)
                happens()

        def before(name: str, owner=reindex) -> None:
            original = getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda *args, **kwargs: (once(), original(*args, **kwargs))[1])

        def after(name: str, owner=reindex) -> None:
            original = getattr(owner, name)

            def then(*args, **kwargs):
                result = original(*args, **kwargs)
                once()
                return result

            monkeypatch.setattr(owner, name, then)

        if step == STEPS[0]:
            # Read already, and not yet written.
            after("read_documents")
        elif step == STEPS[1]:
            after("_copy", reindex._Reindexing)
        elif step == STEPS[2]:
            after("_round", reindex._Reindexing)
        else:
            before("remove_left_behind")
        return happened

    return arrange


@pytest.mark.parametrize("step", STEPS)
def test_what_is_written_replaced_or_deleted_at_any_moment_is_so_afterwards(
    scribe, superuser, another_edition, at_step, step
):
    def meanwhile() -> None:
        assert scribe.index("new", "A new lighthouse was built on the cape.").status_code == 201
        assert scribe.index("turn/2", "The passport is in the safe now.", thread_id="kitchen").status_code == 200
        assert scribe.delete("memory/documents/turn/3").status_code == 204
        made = scribe.post("memory/entities", {"doc_id": "long"})
        assert made.json()["stored"]

    expected = exported(scribe)
    happened = at_step(step, meanwhile)
    done = reindexed(scribe, another_edition)
    assert happened == [step]
    assert (done.moved, done.failed) == (1, 0)

    after = exported(scribe)
    texts = {doc_id: found["text"] for doc_id, found in after.items()}
    # A summary goes with a document that it was made from.
    kept = {
        doc_id: found["text"]
        for doc_id, found in expected.items()
        if doc_id not in ("turn/2", "turn/3") and not doc_id.startswith("summary/")
    }
    assert texts == kept | {
        "new": "A new lighthouse was built on the cape.", "turn/2": "The passport is in the safe now.",
    }  # fmt: skip
    assert scribe.query("lighthouse").json()["results"][0]["doc_id"] == "new"
    assert "entities" in scribe.query('"beekeepers in Berlin"').json()["results"][0]["metadata"]
    assert all(each["doc_id"] != "turn/3" for each in scribe.query("heat pump", top_k=50).json()["results"])
    assert rows_by_space(superuser, scribe)["memory_chunks"] == {another_edition}
    assert (
        superuser.execute(
            "SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s", [scribe.user_hash]
        ).fetchone()
        == superuser.execute(
            "SELECT count(DISTINCT doc_id), count(*) FROM memory_chunks WHERE user_hash = %s", [scribe.user_hash]
        ).fetchone()
    )


@pytest.mark.parametrize("step", STEPS)
def test_an_erasure_at_any_moment_wins_and_leaves_nothing_in_either_space(
    scribe, superuser, another_edition, at_step, step
):
    receipts = []
    happened = at_step(step, lambda: receipts.append(scribe.post("memory/erase", {"confirm": scribe.user_id}).json()))
    done = reindexed(scribe, another_edition)
    assert happened == [step]
    assert (done.moved, done.failed) == (0, 0)
    assert receipts[0]["key_destroyed"] and receipts[0]["erased_documents"] == 7
    assert rows(superuser, scribe).keys() <= {"memory_erasures", "memory_rate_buckets"}
    assert scribe.query("passport").json()["results"] == []


def test_a_move_of_somebody_who_has_begun_anew_meanwhile_takes_nothing_over(
    scribe, superuser, another_edition, at_step
):
    def anew() -> None:
        scribe.post("memory/erase", {"confirm": scribe.user_id})
        scribe.index("only", "All of this is new.")

    at_step(STEPS[1], anew)
    reindexed(scribe, another_edition)
    assert {doc_id: found["text"] for doc_id, found in exported(scribe).items()} == {"only": "All of this is new."}
    assert "memory_moves" not in rows(superuser, scribe)


def test_nobody_else_is_touched(scribe, bob, superuser, another_edition):
    bob.index("ferry", "The ferry leaves at nine.")
    of_bob = "SELECT xmin, * FROM memory_chunks WHERE user_hash = %s"
    before = superuser.execute(of_bob, [bob.user_hash]).fetchall()
    reindexed(scribe, another_edition)
    assert superuser.execute(of_bob, [bob.user_hash]).fetchall() == before
    assert rows_by_space(superuser, bob)["memory_search_keys"] == {1}


def test_readers_and_a_writer_beside_a_move_see_a_whole_memory_and_never_fail(scribe, superuser, another_edition):
    from django.db import connections

    stop, failures, answers = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            with bind_tenant(scribe.user_hash):
                results = query_memory(MemoryQuery("passport", top_k=50, rerank=False)).results
            # Of the whole memory: nothing is found twice, and nothing is missing.
            ids = [(each.doc_id, each.chunk_index) for each in results]
            if len(ids) != len(set(ids)) or not {"turn/1", "turn/2", "long"} <= {doc_id for doc_id, _ in ids}:
                failures.append(ids)
            answers.append(len(ids))

    def write() -> None:
        for number in range(40):
            response = scribe.index(f"beside/{number}", f"Written beside the move, number {number}.")
            if response.status_code != 201:
                failures.append(response.content)

    def in_thread(work):
        def run():
            try:
                work()
            except Exception as exc:
                failures.append(exc)
            finally:
                connections.close_all()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [in_thread(read), in_thread(read), in_thread(write)]
    try:
        for _ in range(2):
            for space in (another_edition, 1):
                assert reindexed(scribe, space).moved == 1
    finally:
        threads[2].join()
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == [] and len(answers) > 4
    assert {f"beside/{number}" for number in range(40)} <= exported(scribe).keys()


def test_a_move_that_is_lost_says_so(scribe, another_edition):
    move = reindex.Move(scribe.user_hash, 1, scribe.user_hash, another_edition)
    with pytest.raises(MoveLost):
        reindex.remove_left_behind(move, lambda rows: None)
