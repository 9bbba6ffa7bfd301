"""The tenant HMAC key changes: every user gets another name, and notices nothing of it."""

from __future__ import annotations

import contextvars
import os
import signal

import pytest
from django.db import connections

from memory.embedding.embedder import Embedder
from memory.errors import KeyUnavailable
from memory.isolation.own_index import read_own_indexes
from memory.maintenance.hmac_keys import Refused, keys_to_rotate, known_keys
from memory.maintenance.index_builds import carried_out
from memory.maintenance.own_indexes import plan
from memory.moving import rename
from memory.rls import tenant_transaction
from memory.sealing import names
from memory.sealing.keyring import create_tenant, forget_profiles
from memory.services import index as index_service
from tests.db.scratch import scratch_database
from tests.moving.memories import REPEATED, answers, exported, listed, remember_some, repeat
from tests.moving.renaming import OTHER, _forget, in_renaming_database, result
from tests.moving.waiting import until_it_waits
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

STEPS = ("before the first copy", "after the first copy", "before the switch", "after the switch")
# Of the two places of a user: one is not whole, and one is not gone.
BETWEEN = STEPS[1::2]


@pytest.fixture(scope="module")
def database(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), scratch_database("renaming") as scratch:
        scratch.migrate()
        yield scratch


@pytest.fixture
def renaming(database, transactional_db):
    with in_renaming_database(database) as renaming:
        yield renaming


@pytest.fixture
def kept(renaming) -> Person:
    """A person with threads, speakers, a summary and an answered request, under the old name."""
    person = Person.new("kept")
    remember_some(person)
    return person


def meanwhile(monkeypatch, step: str, happens) -> list[str]:
    """Let something happen at one of STEPS of the next renaming."""
    happened: list[str] = []

    def once() -> None:
        if not happened:
            happened.append(step)
            happens()

    def around(owner, name: str, *, first: bool) -> None:
        original = getattr(owner, name)

        def changed(*args, **kwargs):
            if first:
                once()
            done = original(*args, **kwargs)
            if not first:
                once()
            return done

        monkeypatch.setattr(owner, name, changed)

    if step == STEPS[0]:
        around(rename, "read_documents", first=False)
    elif step == STEPS[1]:
        around(rename._Renaming, "_copy", first=False)
    elif step == STEPS[2]:
        around(rename._Renaming, "_round", first=False)
    else:
        around(rename, "remove_old_name", first=True)
    return happened


def test_answers_receipts_summaries_and_repeated_requests_are_those_of_before(kept, renaming):
    assert kept.post("memory/entities", {"doc_id": "long"}).json()["stored"]
    exports, listing, answered = exported(kept), listed(kept), repeat(kept).content
    before, rows = answers(kept), renaming.rows_under(kept.user_hash)
    old = kept.user_hash

    done = renaming.rename_all()

    assert (done.users, done.renamed, done.failed, done.damaged, done.unknown) == (1, 1, 0, 0, 0)
    assert answers(kept) == before and all(before)
    assert (exported(kept), listed(kept)) == (exports, listing)
    again = repeat(kept)
    assert (again.content, again["Idempotent-Replayed"]) == (answered, "true")
    assert kept.post("memory/summarize", {"thread_id": "kitchen"}).json()["doc_id"] in exports
    # Every table of a user's has as many rows under the new name, and only the link is left under the old one.
    assert renaming.rows_under(renaming.new_name(kept)) == rows
    assert renaming.rows_under(old) == {"memory_tenants": 1}
    assert renaming.superuser.execute(
        "SELECT state, moved_to FROM memory_tenants WHERE user_hash = %s", [old]
    ).fetchone() == ("moved", renaming.new_name(kept))
    assert kept.post("memory/erase", {"confirm": kept.user_id}).json()["key_destroyed"]


def test_scores_are_the_same_to_the_last_bit(kept, renaming):
    def scores() -> list:
        return [
            [each["scores"] for each in kept.query(text, decay_weight=0).json()["results"]] for text in ("pump", "Ben")
        ]

    before = scores()
    renaming.rename_all()
    assert scores() == before and all(before)


@pytest.mark.parametrize("step", STEPS)
def test_what_is_written_replaced_or_deleted_at_any_moment_is_so_afterwards(kept, renaming, monkeypatch, step):
    def write() -> None:
        assert kept.index("new", "A new lighthouse was built on the cape.").status_code == 201
        assert kept.index("turn/2", "The passport is in the safe now.", thread_id="kitchen").status_code == 200
        assert kept.delete("memory/documents/turn/3").status_code == 204
        body = {"doc_id": "second", "text": "Sent under a key."}
        assert kept.post("memory/index", body, **{"idempotency-key": "second"}).status_code == 201

    expected = exported(kept)
    happened = meanwhile(monkeypatch, step, write)
    done = renaming.rename_all()
    assert happened == [step] and (done.renamed, done.failed) == (1, 0)
    texts = {doc_id: found["text"] for doc_id, found in exported(kept).items()}
    gone = {doc_id for doc_id in expected if doc_id in ("turn/2", "turn/3") or doc_id.startswith("summary/")}
    assert texts == {doc_id: found["text"] for doc_id, found in expected.items() if doc_id not in gone} | {
        "new": "A new lighthouse was built on the cape.", "turn/2": "The passport is in the safe now.",
        "second": "Sent under a key.",
    }  # fmt: skip
    assert kept.query("lighthouse").json()["results"][0]["doc_id"] == "new"
    body = {"doc_id": "second", "text": "Sent under a key."}
    assert "Idempotent-Replayed" in kept.post("memory/index", body, **{"idempotency-key": "second"})
    assert set(renaming.rows_under(kept.user_hash)) == {"memory_tenants"}
    [counted] = renaming.superuser.execute(
        "SELECT chunk_count = (SELECT count(*) FROM memory_chunks c WHERE c.user_hash = t.user_hash)"
        " AND document_count = (SELECT count(*) FROM memory_documents d WHERE d.user_hash = t.user_hash)"
        " FROM memory_tenants t WHERE user_hash = %s",
        [renaming.new_name(kept)],
    ).fetchone()
    assert counted


@pytest.mark.parametrize("step", BETWEEN)
def test_an_erasure_at_any_moment_wins_and_leaves_nothing_under_either_name(kept, renaming, monkeypatch, step):
    receipts = []
    happened = meanwhile(
        monkeypatch, step, lambda: receipts.append(kept.post("memory/erase", {"confirm": kept.user_id}).json())
    )
    renaming.rename_all()
    assert happened == [step]
    assert receipts[0]["key_destroyed"] and receipts[0]["erased_documents"] == 7
    for name in (kept.user_hash, renaming.new_name(kept)):
        assert renaming.rows_under(name).keys() <= {"memory_erasures", "memory_rate_buckets"}, name
    assert kept.query("passport").json()["results"] == []
    assert kept.index("only", "All of this is new.").status_code == 201


def test_a_write_under_way_at_the_switch_is_carried_out_once_more_under_the_new_name(kept, renaming, monkeypatch):
    seal, renamed = index_service.seal_document, []

    def seal_then_rename(*args):
        document = seal(*args)
        if not renamed:
            renamed.append(None)
            renamed.append(contextvars.Context().run(renaming.rename_all))
        return document

    monkeypatch.setattr(index_service, "seal_document", seal_then_rename)
    body = {"doc_id": "under-way", "text": "A lighthouse was lit under way."}
    response = kept.post("memory/index", body, **{"idempotency-key": "under-way"})
    assert (response.status_code, response.json()["doc_id"]) == (201, "under-way")
    assert renamed[1].renamed == 1
    assert exported(kept)["under-way"]["text"] == body["text"]
    assert renaming.rows_under(kept.user_hash) == {"memory_tenants": 1}


def test_a_question_under_way_at_the_switch_is_answered_from_the_new_name(kept, renaming, monkeypatch):
    before, renamed = answers(kept), []
    ask = Embedder.ask_query

    def ask_then_rename(self, *args, **kwargs):
        vector = ask(self, *args, **kwargs)
        if not renamed:
            renamed.append(None)
            contextvars.Context().run(renaming.rename_all)
        return vector

    monkeypatch.setattr(Embedder, "ask_query", ask_then_rename)
    assert answers(kept) == before and renamed


def test_an_export_goes_on_through_the_switch(kept, renaming, monkeypatch):
    from memory.services import export

    monkeypatch.setattr(export, "PAGE_DOCUMENTS", 2)
    expected = exported(kept)
    body = kept.get("memory/export").streaming_content
    begun = next(body)
    renaming.rename_all()
    text = begun + b"".join(body)
    assert all(doc_id.encode() in text for doc_id in expected)


def test_an_index_of_the_old_names_own_is_kept_no_longer_and_the_new_one_gets_his(kept, renaming, settings):
    settings.MEMORY_OWN_INDEX_CHUNKS, settings.MEMORY_OWN_INDEX_DROP_CHUNKS = 2, 1
    list(carried_out(plan(connections["maint"]).tasks))
    with tenant_transaction(kept.user_hash) as tx:
        assert tx.state().indexed_space is not None
    renaming.rename_all()
    acts = [(str(task.act), task.user_hash) for task in plan(connections["maint"]).tasks]
    assert sorted(acts) == [("built", renaming.new_name(kept)), ("dropped", kept.user_hash)]
    list(carried_out(plan(connections["maint"]).tasks))
    assert [index.own.user_hash for index in read_own_indexes(connections["maint"])] == [renaming.new_name(kept)]
    settings.MEMORY_OWN_INDEX_CHUNKS, settings.MEMORY_OWN_INDEX_DROP_CHUNKS = 1_000_000, 999_999
    list(carried_out(plan(connections["maint"]).tasks))


def test_who_is_new_is_named_by_the_new_key_and_never_has_two_names(renaming, kept):
    renaming.rename_all()
    late = Person.new("late")
    assert late.index("first", "Written after the promotion.").status_code == 201
    assert renaming.rows_under(renaming.new_name(late))["memory_documents"] == 1
    assert renaming.rows_under(late.user_hash) == {}
    # Whoever has not heard of the promotion is refused, and asks anew.
    other = Person.new("other")
    with pytest.raises(KeyUnavailable), tenant_transaction(other.user_hash, write=True) as tx:
        create_tenant(tx, other.user_id, 1)
    assert renaming.rows_under(other.user_hash) == {}


def test_a_worker_that_has_not_heard_of_it_finds_whom_it_knew(renaming, kept):
    before = answers(kept)
    assert renaming.rename_all().renamed == 1
    # Everything that this process remembers is as before the promotion.
    names._settled.add(kept.user_hash)
    assert answers(kept) == before


def test_nothing_is_retired_while_somebody_has_his_old_name_and_then_no_link_is_left(renaming, kept, monkeypatch):
    with pytest.raises(Refused, match="names nobody yet"):
        renaming.retire()
    renaming.superuser.execute("UPDATE memory_chunks SET text_cipher = text_cipher || 'x' WHERE doc_id = 'turn/1'")
    done = renaming.rename_all()
    assert (done.users, done.renamed, done.damaged) == (1, 0, 1)
    with pytest.raises(Refused, match="1 users have their old name"):
        renaming.retire()
    kept.index("turn/1", "Where did you put the passport?")
    assert renaming.rename_all().renamed == 1
    assert renaming.retire() == 1
    assert renaming.rows_under(kept.user_hash) == {}
    before = exported(kept)
    with pytest.raises(Refused, match="retired"):
        keys_to_rotate(connections["maint"])
    # The old key's bytes are taken away.
    monkeypatch.setenv("MEMORY_TENANT_HMAC_KEY", os.environ[OTHER])
    monkeypatch.delenv("MEMORY_TENANT_HMAC_KEY_FILE", raising=False)
    kept_key = os.environ.pop(OTHER)
    _forget()
    try:
        assert exported(kept) == before
        assert kept.user_hash == renaming.new_name(kept)
    finally:
        os.environ[OTHER] = kept_key
        monkeypatch.undo()
        _forget()


def test_nothing_begins_while_a_live_worker_lacks_a_key(renaming, kept):
    renaming.superuser.execute(
        "INSERT INTO memory_workers (worker_id, host, pid, version, master_keys, hmac_keys)"
        " VALUES (gen_random_uuid(), 'elsewhere', 7, '0', '{}', '{\"h1\": \"0011223344556677\"}')"
    )
    with pytest.raises(Refused, match="elsewhere:7"):
        renaming.rename_all()
    assert renaming.rows_under(renaming.new_name(kept)) == {}


def test_the_real_command_killed_anywhere_is_gone_on_with(renaming, kept, database):
    bystander = Person.new("bystander")
    bystander.index("ferry", "The ferry leaves at nine.")
    more = [{"doc_id": f"more/{n}", "text": f"The lighthouse number {n} was lit at dusk."} for n in range(70)]
    assert kept.post("memory/index", {"documents": more}).status_code == 201
    before = answers(kept)
    new = renaming.new_name(kept)
    stops = {
        "while it copies": (
            "INSERT INTO memory_moved_documents (user_hash, doc_id, version, chunk_count)"
            " VALUES (%s, 'turn/4', '', 1) RETURNING 1", new,
        ),
        "before it switches": ("SELECT 1 FROM memory_tenants WHERE user_hash = %s FOR UPDATE", new),
        "while it removes": ("SELECT 1 FROM memory_documents WHERE user_hash = %s LIMIT 1 FOR UPDATE", kept.user_hash),
    }  # fmt: skip
    with database.connect() as holder:
        for where, (lock, name) in stops.items():
            holder.execute("BEGIN")
            assert holder.execute(lock, [name]).fetchone(), where
            process = renaming.command()
            until_it_waits(holder, renaming.superuser, process)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            holder.execute("ROLLBACK")
            assert answers(kept) == before, where
    done = result(renaming.command())
    assert (done["failed"], done["damaged"], done["unknown"]) == (0, 0, 0)
    assert answers(kept) == before
    assert renaming.rows_under(kept.user_hash) == {"memory_tenants": 1}
    assert bystander.query("ferry").json()["results"]
    assert result(renaming.command("--retire")) == {"links_removed": 2}
    assert {each["retired_at"] is None for each in known_keys(connections["maint"])} == {True, False}
    forget_profiles()
    assert answers(kept) == before
    assert kept.post("memory/index", REPEATED, **{"idempotency-key": "once"})["Idempotent-Replayed"] == "true"
