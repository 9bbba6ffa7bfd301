"""POST /memory/erase: keys, then rows, then the user; and what the receipt says of it."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict
from datetime import datetime, timedelta

import pytest
from django.conf import settings

from memory.erasure import erase
from memory.erasure.erase import ERASED_TABLES, KEY_TABLES, erase_memory
from memory.erasure.receipts import is_valid, signed_receipt
from memory.isolation.audit import TENANT_TABLES
from memory.keys import master_keys, receipt_keys
from memory.retrieval.plan import Plan
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing.keyring import forget_profiles
from tests.db.memories import flush_terms, remember, remember_requests, remember_summary

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])

TEXT = "Grandmother's recipe needs two lemons and a cup of poppy seeds."
ERASED = ("erased_documents", "erased_chunks", "key_destroyed", "unrecoverable_after", "at")
# What outlives an erasure: the ledger, and how much of the rate is left.
KEPT = {"memory_erasures", "memory_rate_buckets"}


def rows(superuser, person) -> dict[str, int]:
    """The user's rows by table, of the tables that have any."""
    counted = {
        table: superuser.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [person.user_hash]).fetchone()[0]
        for table in TENANT_TABLES
    }
    return {table: count for table, count in counted.items() if count}


def erased(person) -> dict:
    response = person.post("memory/erase", {"confirm": person.user_id})
    assert response.status_code == 200, response.content
    return response.json()


def put_aside(superuser, person) -> dict[str, list[str]]:
    """Every row of the user in every table, as a complete backup has them."""
    return {
        table: [row for (row,) in superuser.execute(
            f"SELECT row_to_json(r)::text FROM {table} r WHERE user_hash = %s", [person.user_hash])]
        for table in TENANT_TABLES
    }  # fmt: skip


def put_back(superuser, backup: dict[str, list[str]], *, without: set[str] = frozenset()) -> None:
    """Restore what was put aside, as it was."""
    for table in sorted(backup.keys() - without):
        for row in backup[table]:
            superuser.execute(f"INSERT INTO {table} SELECT * FROM json_populate_record(NULL::{table}, %s::json)", [row])


def fill(person) -> None:
    """Rows in every tenant table: three documents, terms in memtable and segments, what requests leave behind."""
    remember(person, "a", "b")
    flush_terms(person, chunks=2)
    remember_summary(person, "c", "a", "b")
    remember_requests(person)


def test_every_tenant_table_is_either_erased_or_kept_on_purpose():
    assert {*ERASED_TABLES, *KEPT, *KEY_TABLES, "memory_tenants"} == set(TENANT_TABLES)


def test_an_erased_user_has_no_row_left_but_the_ledgers_and_the_rates(alice, bob, superuser):
    fill(alice)
    fill(bob)
    before, others = rows(superuser, alice), rows(superuser, bob)
    assert before.keys() == set(TENANT_TABLES)
    receipt = erased(alice)
    assert (receipt["erased_documents"], receipt["erased_chunks"], receipt["key_destroyed"]) == (3, 3, True)
    assert rows(superuser, alice) == {"memory_erasures": 2, "memory_rate_buckets": 1}
    assert rows(superuser, bob) == others
    assert bob.get("memory/stats").json()["documents"] == 3


def test_the_receipt_is_signed_and_says_when_the_last_copy_of_the_key_is_gone(alice, bob, superuser):
    remember(alice, "a")
    receipt = erased(alice)
    at, gone = (datetime.fromisoformat(receipt[name]) for name in ("at", "unrecoverable_after"))
    assert gone - at == timedelta(days=settings.MEMORY_KEY_BACKUP_RETENTION_DAYS)
    assert superuser.execute(
        "SELECT erased_at, unrecoverable_after, erased_documents, erased_chunks FROM memory_erasures"
        " WHERE user_hash = %s", [alice.user_hash]).fetchall() == [(at, gone, 1, 1)]  # fmt: skip
    assert is_valid(receipt, alice.user_id)
    assert not is_valid(receipt, bob.user_id)
    assert is_valid(receipt)
    for name, other in [
        ("version", 2),
        ("key_id", "0" * 16),
        ("subject", "0" * 64),
        ("erased_documents", 2),
        ("erased_chunks", True),
        ("key_destroyed", False),
        ("at", receipt["at"].replace("Z", "+00:00")),
        ("signature", "".join("BA"[letter == "B"] for letter in receipt["signature"][:1]) + receipt["signature"][1:]),
    ]:
        assert receipt[name] != other or type(receipt[name]) is not type(other)
        assert not is_valid(receipt | {name: other}), name
    assert not is_valid(receipt | {"more": 1})
    assert not is_valid({name: receipt[name] for name in receipt if name != "at"})


def test_a_receipt_outlives_the_key_that_names_users_and_a_newer_key_of_its_own(alice, monkeypatch):
    remember(alice, "a")
    receipt = erased(alice)
    key = receipt_keys.receipt_keys()[0].secret
    newer = os.urandom(32)
    monkeypatch.delenv("MEMORY_RECEIPT_KEY_FILE", raising=False)
    monkeypatch.setenv("MEMORY_RECEIPT_KEY", ",".join(base64.b64encode(each).decode() for each in (newer, key)))
    monkeypatch.setattr(master_keys, "tenant_hmac_key", lambda: os.urandom(32))
    assert is_valid(receipt, alice.user_id)
    later = asdict(signed_receipt(alice.user_id, **{name: receipt[name] for name in ERASED}))
    assert later["key_id"] != receipt["key_id"] and is_valid(later, alice.user_id)
    monkeypatch.setenv("MEMORY_RECEIPT_KEY", base64.b64encode(newer).decode())
    assert is_valid(later, alice.user_id) and not is_valid(receipt, alice.user_id)


def test_a_user_who_stored_nothing_gets_a_receipt_of_nothing_and_no_line_in_the_ledger(stranger, superuser):
    receipt = erased(stranger)
    assert (receipt["erased_documents"], receipt["erased_chunks"], receipt["key_destroyed"]) == (0, 0, False)
    assert is_valid(receipt, stranger.user_id)
    assert rows(superuser, stranger) == {}


@pytest.mark.parametrize("confirm", ["", "yes", None, 1, ["x"], "user\x00", "x" * 129])
def test_without_the_users_own_id_nothing_is_erased(alice, superuser, confirm):
    remember(alice, "a")
    before = rows(superuser, alice)
    for body in ({"confirm": confirm}, {"confirm": f" {alice.user_id}"}, {"confirm": alice.user_id.upper()}, {},
                 {"user_id": alice.user_id}, {"confirm": alice.user_id, "everything": True}):  # fmt: skip
        refused = alice.post("memory/erase", body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid"), body
    assert rows(superuser, alice) == before


def test_another_users_id_in_the_body_erases_nobody(alice, bob, superuser):
    remember(alice, "a")
    remember(bob, "a")
    assert alice.post("memory/erase", {"confirm": bob.user_id}).status_code == 422
    assert alice.post("memory/erase", {"confirm": alice.user_id, "user_id": bob.user_id}).status_code == 200
    assert "memory_documents" in rows(superuser, bob)
    assert "memory_documents" not in rows(superuser, alice)


def test_erasing_needs_the_scope_to_write(alice):
    body = json.dumps({"confirm": alice.user_id})
    read_only = alice.client(scope="memory:read")
    assert read_only.post("/api/v1/memory/erase", body, content_type="application/json").status_code == 403


def test_after_an_erasure_the_user_begins_anew_with_another_key(alice, superuser):
    key = "SELECT sealed_key FROM memory_data_keys WHERE user_hash = %s"
    alice.index("recipe", TEXT)
    old = superuser.execute(key, [alice.user_hash]).fetchone()[0]
    erased(alice)
    assert alice.get("memory/documents/recipe").status_code == 404
    assert alice.query("poppy seeds").json()["results"] == []
    assert alice.index("recipe", TEXT).status_code == 201
    assert superuser.execute(key, [alice.user_hash]).fetchone()[0] != old
    assert alice.query("poppy seeds").json()["results"][0]["text"] == TEXT
    assert erased(alice)["erased_documents"] == 1


def killed_at(monkeypatch, person, table: str) -> None:
    """Begin an erasure that dies before `table`'s rows are deleted."""
    delete_rows = erase._delete_rows

    def die(user_hash, memory, at):
        if at == table:
            raise SystemExit
        delete_rows(user_hash, memory, at)

    with monkeypatch.context() as patched, bind_tenant(person.user_hash):
        patched.setattr(erase, "_delete_rows", die)
        with pytest.raises(SystemExit):
            erase_memory()


@pytest.mark.parametrize("table", ERASED_TABLES)
def test_an_erasure_that_was_killed_refuses_everything_and_is_finished_by_the_next_call(
    alice, superuser, monkeypatch, table
):
    fill(alice)
    killed_at(monkeypatch, alice, table)
    left = rows(superuser, alice)
    assert table in left and "memory_data_keys" not in left
    refusals = [
        alice.index("d", TEXT), alice.query("poppy"), alice.get("memory/documents/a"),
        alice.delete("memory/documents/a"), alice.get("memory/documents"), alice.get("memory/export"),
        alice.get("memory/stats"),
    ]  # fmt: skip
    for response in refusals:
        assert (response.status_code, response.json()["code"]) == (503, "key_unavailable"), response.content
    assert rows(superuser, alice) == left | {"memory_rate_buckets": left["memory_rate_buckets"]}
    receipt = erased(alice)
    assert (receipt["erased_documents"], receipt["erased_chunks"], receipt["key_destroyed"]) == (3, 3, True)
    assert rows(superuser, alice).keys() == KEPT


def test_batches_of_any_size_leave_nothing_and_count_everything_once(alice, superuser, monkeypatch):
    for size in (1, 2, 3, 1000):
        monkeypatch.setattr(erase, "BATCH_ROWS", size)
        fill(alice)
        receipt = erased(alice)
        assert (receipt["erased_documents"], receipt["erased_chunks"]) == (3, 3), size
        superuser.execute("DELETE FROM memory_erasures WHERE user_hash = %s", [alice.user_hash])
        superuser.execute("DELETE FROM memory_rate_buckets WHERE user_hash = %s", [alice.user_hash])
        assert rows(superuser, alice) == {}


@pytest.mark.parametrize("table", [*ERASED_TABLES, "memory_data_keys"])
def test_rows_that_came_back_without_their_user_are_erased_too(alice, superuser, table):
    fill(alice)
    backup = put_aside(superuser, alice)
    erased(alice)
    put_back(superuser, backup, without=set(TENANT_TABLES) - {table})
    assert table in rows(superuser, alice)
    receipt = erased(alice)
    assert receipt["erased_documents"] == (3 if table == "memory_documents" else 0)
    assert receipt["erased_chunks"] == (3 if table == "memory_chunks" else 0)
    assert rows(superuser, alice).keys() == KEPT


def test_a_restored_complete_backup_opens_nothing(alice, superuser):
    """The rows of before, the keys of after, the current master keys."""
    alice.index("recipe", TEXT, metadata={"secret": "poppy"}, thread_id="cake")
    backup = put_aside(superuser, alice)
    assert alice.query("poppy seeds").json()["results"]
    erased(alice)
    put_back(superuser, backup, without={*KEY_TABLES, "memory_erasures", "memory_rate_buckets"})
    forget_profiles()
    assert rows(superuser, alice)["memory_chunks"] == 1
    for response in (
        alice.get("memory/documents/recipe"), alice.query("poppy seeds"), alice.get("memory/export"),
        alice.get("memory/documents"), alice.get("memory/stats"), alice.index("new", "Anything else."),
        alice.index("recipe", "Anything else."),
    ):  # fmt: skip
        assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
        assert not any(word in response.content for word in (b"poppy", b"lemon", b"recipe"))
    assert erased(alice)["erased_documents"] == 1
    assert alice.index("new", "Anything else.").status_code == 201


def test_rows_of_before_do_not_open_under_the_key_of_after(alice, superuser):
    alice.index("recipe", TEXT)
    backup = put_aside(superuser, alice)
    erased(alice)
    alice.index("new", "The spare key hangs behind the blue coat.")
    put_back(superuser, backup, without=set(TENANT_TABLES) - {"memory_chunks", "memory_documents"})
    for path in ("memory/export", "memory/documents/recipe"):
        read = alice.get(path)
        assert (read.status_code, read.json()["code"]) == (500, "decryption_failed")
        assert b"poppy" not in read.content
    degraded = alice.get("memory/export")
    assert degraded["X-R1-Degraded"] == "quarantined"
    assert [json.loads(line)["doc_id"] for line in degraded.streaming_content] == ["new"]


def test_a_batch_reads_the_rows_it_deletes_and_no_others(alice, superuser):
    """As r1_app under row-level security, where only LEAKPROOF comparisons become index conditions; with statistics
    that know this user, as autovacuum keeps them."""
    remember(alice, "a")
    with tenant_transaction(alice.user_hash, write=True) as tx:
        tx.execute(
            "INSERT INTO memory_chunks (user_hash, space, doc_id, source, generation, created_at, id, chunk_index,"
            " char_start, char_end, embedding, text_cipher, meta_cipher, emb_cipher)"
            " SELECT user_hash, space, 'many', source, generation, created_at, gen_random_uuid(), n, char_start,"
            " char_end, embedding, text_cipher, meta_cipher, emb_cipher"
            " FROM memory_chunks, generate_series(1, 4000) n WHERE user_hash = %s",
            [alice.user_hash],
        )
    partition = superuser.execute(
        "SELECT DISTINCT tableoid::regclass::text FROM memory_chunks WHERE user_hash = %s", [alice.user_hash]
    ).fetchone()[0]
    superuser.execute(f"ANALYZE {partition}")
    last: tuple = ()
    for _ in range(3):
        with tenant_transaction(alice.user_hash, write=True) as tx:
            end = tx.execute(*erase._batch_end("memory_chunks", alice.user_hash, last)).fetchone()
            sql, params = erase._delete_range("memory_chunks", alice.user_hash, last, end)
            tree = tx.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + sql, params).fetchone()[0]
        plan = Plan((json.loads(tree) if isinstance(tree, str) else tree)[0], "")
        # By the index, or by a bitmap of it, as the planner likes.
        scans = [pair for pair in plan.scans("memory_chunks_p") if pair[0]["Node Type"] != "Bitmap Index Scan"]
        [(scan, guarded)] = scans
        condition = scan.get("Index Cond") or scan["Recheck Cond"]
        assert guarded and f"user_hash = '{alice.user_hash}'" in condition
        read_in_vain = scan.get("Rows Removed by Filter", 0) + scan.get("Rows Removed by Index Recheck", 0)
        assert scan["Actual Rows"] == erase.BATCH_ROWS and not read_in_vain, scan
        last = end
