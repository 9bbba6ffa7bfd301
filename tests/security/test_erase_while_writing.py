"""An erasure among writers that still hold the key: a write fails, or lands under the key that lives."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import DatabaseError, connections

from memory.erasure import erase
from memory.erasure.erase import erase_memory
from memory.errors import KeyUnavailable, Overloaded, StaleKeys
from memory.indexing.seal import DocumentDraft, seal_document
from memory.indexing.slices import Slice
from memory.indexing.store import store_document
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing.keyring import existing_or_new_profile, existing_profile, forget_profiles
from memory.services.documents import get_document
from memory.services.export import export_documents
from tests.db.memories import remember, unit_vector

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
# What a writer is told while an erasure is at work: the key is gone or changing, or a lock was waited for too long.
# Overloaded: a writer that has waited its time for the others of its user.
REFUSALS = (KeyUnavailable, Overloaded, StaleKeys, DatabaseError)


def write(person, doc_id: str, *, keys=None) -> None:
    """As index_document does below the model: seal under the key at hand, store, and once more if it is not the one."""
    text = f"What is kept under {doc_id}."
    for attempt in range(2):
        keys = keys or existing_or_new_profile(person.user_hash, person.user_id)
        draft = DocumentDraft(doc_id, "api", text)
        sealed = seal_document(keys, draft, [Slice(text, 0, len(text))], unit_vector()[None, :])
        try:
            with tenant_transaction(person.user_hash, write=True) as tx:
                store_document(tx, sealed)
            return
        except StaleKeys:
            forget_profiles(person.user_hash)
            keys = None
            if attempt:
                raise


def assert_every_row_opens(superuser, person) -> int:
    """Nobody's rows are without a key, and each document of the user reads back; how many there are."""
    forget_profiles()
    orphans = superuser.execute(
        "SELECT (SELECT count(*) FROM memory_chunks c WHERE user_hash = %(user)s AND NOT EXISTS (SELECT FROM"
        " memory_data_keys k WHERE k.user_hash = c.user_hash AND k.generation = c.generation)),"
        " (SELECT count(*) FROM memory_documents d WHERE user_hash = %(user)s AND NOT EXISTS (SELECT FROM"
        " memory_tenants t WHERE t.user_hash = d.user_hash AND t.state = 'active'))",
        {"user": person.user_hash},
    ).fetchone()
    assert orphans == (0, 0)
    with bind_tenant(person.user_hash):
        documents = list(export_documents().documents)
    for document in documents:
        assert document.text == f"What is kept under {document.doc_id}."
    found = superuser.execute(
        "SELECT count(*), (SELECT count(*) FROM memory_chunks WHERE user_hash = %(user)s),"
        " (SELECT count(*) FROM memory_lexical_chunks WHERE user_hash = %(user)s)"
        " FROM memory_documents WHERE user_hash = %(user)s", {"user": person.user_hash},
    ).fetchone()  # fmt: skip
    assert found == (len(documents),) * 3
    return len(documents)


def test_a_key_cached_before_the_erasure_writes_nothing_after_it(alice, superuser):
    write(alice, "before")
    cached = existing_profile(alice.user_hash)
    with bind_tenant(alice.user_hash):
        erase_memory()
    sealed = seal_document(cached, DocumentDraft("late", "api", "x"), [Slice("x", 0, 1)], unit_vector()[None, :])
    with pytest.raises(StaleKeys):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            store_document(tx, sealed)
    assert assert_every_row_opens(superuser, alice) == 0
    write(alice, "late", keys=cached)
    assert assert_every_row_opens(superuser, alice) == 1
    with pytest.raises(StaleKeys):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            store_document(tx, sealed)


def test_a_write_between_two_batches_is_refused(alice, superuser, monkeypatch):
    remember(alice, "a", "b", "c")
    cached = existing_profile(alice.user_hash)
    refused = []
    delete_rows = erase._delete_rows

    def delete_and_write(user_hash, memory, table):
        delete_rows(user_hash, memory, table)
        with pytest.raises(KeyUnavailable):
            write(alice, "between", keys=cached)
        with pytest.raises(KeyUnavailable):
            write(alice, "between")
        refused.append(table)

    monkeypatch.setattr(erase, "_delete_rows", delete_and_write)
    with bind_tenant(alice.user_hash):
        assert erase_memory().erased_documents == 3
    assert refused == list(erase.ERASED_TABLES)
    assert assert_every_row_opens(superuser, alice) == 0


def test_writers_readers_and_erasers_at_once_leave_only_rows_that_open(alice, superuser):
    """Three writers, a reader and two erasers in threads of their own, until eighty erasures are done."""
    done, stop = [], threading.Event()

    def repeat(call):
        wrote = 0
        try:
            while not stop.is_set():
                try:
                    call(wrote)
                    wrote += 1
                except REFUSALS:
                    pass
        finally:
            connections.close_all()
        return wrote

    def erase_once(_):
        with bind_tenant(alice.user_hash):
            done.append(erase_memory())
        if sum(erasure.key_destroyed for erasure in done) >= 80:
            stop.set()
        time.sleep(0.005)  # so that writers get a turn between two erasures

    def read(number):
        with bind_tenant(alice.user_hash):
            for document in export_documents().documents:
                assert document.text == f"What is kept under {document.doc_id}."

    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(repeat, lambda n, w=w: write(alice, f"doc-{w}-{n % 5}")) for w in range(3)]
        others = [pool.submit(repeat, call) for call in (read, erase_once, erase_once)]
        written = [future.result(timeout=120) for future in writers]
        for future in others:
            future.result(timeout=120)
    assert all(written), "a writer never got through: nothing was tested"
    assert sum(erasure.erased_documents for erasure in done) > 0
    assert_every_row_opens(superuser, alice)
    write(alice, "afterwards")
    with bind_tenant(alice.user_hash):
        assert get_document("afterwards").text == "What is kept under afterwards."


def test_two_erasures_at_once_give_the_same_receipt_or_one_of_nothing(alice, superuser):
    for _ in range(20):
        remember(alice, "a", "b", "c")
        start = threading.Barrier(2, timeout=30)

        def run(start=start):
            try:
                start.wait()
                with bind_tenant(alice.user_hash):
                    return erase_memory()
            finally:
                connections.close_all()

        with ThreadPoolExecutor(2) as pool:
            one, other = (future.result(timeout=60) for future in [pool.submit(run), pool.submit(run)])
        if one.key_destroyed and other.key_destroyed:
            assert one == other
        assert sorted((one.erased_documents, other.erased_documents)) in ([0, 3], [3, 3])
    ledger = superuser.execute(
        "SELECT count(*), sum(erased_documents) FROM memory_erasures WHERE user_hash = %s", [alice.user_hash]
    ).fetchone()
    assert ledger == (20, 60)


_WRITER = """
import json, sys
import django
django.setup()
from memory.sealing.keyring import begin_key_watch, existing_profile
from tests.people import Person
from tests.security.test_erase_while_writing import REFUSALS, write

person = Person(sys.argv[1])
begin_key_watch()
write(person, "first")
key = existing_profile(person.user_hash)
print("ready", flush=True)
counts = {"written": 0, "refused": 0}
for line in sys.stdin:
    try:
        write(person, f"doc-{counts['written']}")
        counts["written"] += 1
    except REFUSALS:
        counts["refused"] += 1
    print(json.dumps({**counts, "same_key": existing_profile(person.user_hash) is key}), flush=True)
"""


def test_a_worker_process_with_the_key_cached_writes_under_the_new_key_only(alice, superuser, monkeypatch):
    worker = subprocess.Popen(
        [sys.executable, "-c", _WRITER, alice.user_id], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert worker.stdout.readline() == "ready\n"

        def ask() -> dict:
            worker.stdin.write("\n")
            worker.stdin.flush()
            return json.loads(worker.stdout.readline())

        assert ask() == {"written": 1, "refused": 0, "same_key": True}
        delete_rows, during = erase._delete_rows, []

        def delete_and_ask(user_hash, memory, table):
            delete_rows(user_hash, memory, table)
            during.append(ask())

        with monkeypatch.context() as patched, bind_tenant(alice.user_hash):
            patched.setattr(erase, "_delete_rows", delete_and_ask)
            assert erase_memory().erased_documents == 2
        assert during[-1]["refused"] == len(during) and during[-1]["written"] == 1
        assert assert_every_row_opens(superuser, alice) == 0
        after = ask()
        assert (after["written"], after["same_key"]) == (2, False)
        assert assert_every_row_opens(superuser, alice) == 1
    finally:
        worker.stdin.close()
        worker.wait(30)


def test_an_erasure_that_lags_behind_does_not_finish_the_next_one(alice, superuser, monkeypatch):
    """It deletes chunks, falls asleep, and wakes in the middle of the erasure of a memory begun since."""
    remember(alice, "old")
    delete_rows = erase._delete_rows

    def fall_asleep(user_hash, memory, table):
        delete_rows(user_hash, memory, table)
        if table == "memory_chunks":
            monkeypatch.setattr(erase, "_delete_rows", delete_rows)
            first.append(erase_memory())
            remember(alice, "new", "newer")
            monkeypatch.setattr(erase, "_delete_rows", stop)
            with pytest.raises(SystemExit):
                erase_memory()
            monkeypatch.setattr(erase, "_delete_rows", delete_rows)

    def stop(user_hash, memory, table):
        raise SystemExit

    first: list = []
    monkeypatch.setattr(erase, "_delete_rows", fall_asleep)
    with bind_tenant(alice.user_hash):
        assert erase_memory() == first[0]
        left = superuser.execute("SELECT count(*) FROM memory_chunks WHERE user_hash = %s", [alice.user_hash])
        assert left.fetchone() == (2,), "the second memory waits for its own erasure to be finished"
        assert (erase_memory().erased_chunks, first[0].erased_chunks) == (2, 1)
    assert assert_every_row_opens(superuser, alice) == 0
