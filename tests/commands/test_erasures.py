"""`verify_receipt`, `erasures` and `replay_erasures`: an erasure can be proved, and survives a restore."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import OperationalError

from memory.erasure import ledger
from memory.erasure.erase import KEY_TABLES
from memory.erasure.ledger import parse_entry
from memory.isolation.audit import TENANT_TABLES
from memory.keys.master_keys import forget_parsed_keys
from memory.keys.receipt_keys import receipt_keys
from memory.management.commands.replay_erasures import Command
from memory.rls import bound_tenant
from memory.sealing.keyring import forget_profiles
from tests.api.test_erase import erased, fill, killed_at, put_aside, put_back, rows
from tests.db.memories import remember

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

NOT_ROWS = {"memory_erasures", "memory_rate_buckets"}


def run(monkeypatch, name: str, *arguments: str, stdin: str = "") -> tuple[int, str]:
    """(exit status, standard output) of a command."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    try:
        call_command(name, *arguments, stdout=out, stderr=io.StringIO())
    except SystemExit as exc:
        return exc.code, out.getvalue()
    except CommandError as exc:
        return exc.returncode, str(exc)
    return 0, out.getvalue()


def ledger_of(monkeypatch, *people) -> str:
    """The ledger's lines about these people, as `erasures` prints them."""
    status, printed = run(monkeypatch, "erasures")
    assert status == 0
    users = {person.user_hash for person in people}
    return "".join(f"{line}\n" for line in printed.splitlines() if json.loads(line)["user_hash"] in users)


# verify_receipt


def test_a_receipt_is_valid_for_its_user_and_for_nobody_else(alice, bob, monkeypatch, tmp_path):
    remember(alice, "a")
    receipt = json.dumps(erased(alice))
    (tmp_path / "receipt.json").write_text(receipt)
    valid = {"valid": True, "key_id": receipt_keys()[0].key_id}
    for arguments in (["--user", alice.user_id], ["--user", alice.user_id, str(tmp_path / "receipt.json")], ["-"]):
        status, printed = run(monkeypatch, "verify_receipt", *arguments, stdin=receipt)
        assert (status, json.loads(printed)) == (0, valid), arguments
    status, printed = run(monkeypatch, "verify_receipt", "--user", bob.user_id, stdin=receipt)
    assert (status, json.loads(printed)) == (1, {"valid": False, "key_id": None})


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "not json", '{"at": 5}', '{"at": "2026-01-01"}', "[" * 100_000]
)
def test_what_is_no_receipt_is_not_valid(alice, monkeypatch, text):
    for arguments in ([], ["--user", alice.user_id]):
        status, printed = run(monkeypatch, "verify_receipt", *arguments, stdin=text)
        assert (status, json.loads(printed)["valid"]) == (1, False)


def test_a_file_that_is_not_there_and_a_user_that_cannot_be_are_usage_errors(monkeypatch, tmp_path):
    assert run(monkeypatch, "verify_receipt", str(tmp_path / "none"))[0] == 2
    assert run(monkeypatch, "verify_receipt", "--user", " x", stdin="{}")[0] == 2


def test_anybody_can_check_a_receipt_with_the_public_key_as_the_runbook_says(alice, monkeypatch):
    remember(alice, "a")
    receipt = erased(alice)
    status, printed = run(monkeypatch, "verify_receipt", "--public-key")
    pem = json.loads(printed)[receipt["key_id"]]
    assert status == 0 and pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    signature = base64.urlsafe_b64decode(receipt.pop("signature") + "==")
    message = json.dumps(receipt, sort_keys=True, separators=(",", ":"))
    load_pem_public_key(pem.encode()).verify(signature, message.encode())
    with pytest.raises(InvalidSignature):
        load_pem_public_key(pem.encode()).verify(signature, message.replace(":1", ":2").encode())


def test_no_member_of_a_receipt_can_be_changed_left_out_or_added(alice, monkeypatch):
    remember(alice, "a")
    receipt = erased(alice)
    forged = [
        {**receipt, name: f"{value}0" if isinstance(value, str) else value + 1} for name, value in receipt.items()
    ]
    forged += [{name: receipt[name] for name in receipt if name != left_out} for left_out in receipt]
    forged += [{**receipt, "key_destroyed": False}, {**receipt, "note": "and more"}]
    for each in forged:
        assert run(monkeypatch, "verify_receipt", stdin=json.dumps(each))[0] == 1, each
    assert run(monkeypatch, "verify_receipt", stdin=json.dumps(receipt))[0] == 0


def test_a_receipt_names_its_user_to_nobody_and_by_one_name_whatever_he_is_called_here(alice, monkeypatch):
    subjects = []
    for _ in range(2):
        remember(alice, "a")
        receipt = erased(alice)
        assert alice.user_id not in json.dumps(receipt) and alice.user_hash not in json.dumps(receipt)
        subjects.append(receipt["subject"])
        with_key(monkeypatch, "MEMORY_TENANT_HMAC_KEY", random_key())
        assert run(monkeypatch, "verify_receipt", "--user", alice.user_id, stdin=json.dumps(receipt))[0] == 0
        monkeypatch.undo()
        forget_parsed_keys()
    assert len(set(subjects)) == 1


def random_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def with_key(monkeypatch, name: str, value: str) -> None:
    monkeypatch.delenv(f"{name}_FILE", raising=False)
    monkeypatch.setenv(name, value)
    forget_parsed_keys()


def test_after_a_rotation_the_newest_key_signs_and_the_older_still_verifies(alice, monkeypatch):
    remember(alice, "a")
    first = erased(alice)
    old, new = base64.b64encode(receipt_keys()[0].secret).decode(), random_key()
    with_key(monkeypatch, "MEMORY_RECEIPT_KEY", f"{new},{old}")
    remember(alice, "b")
    second = erased(alice)
    assert second["key_id"] != first["key_id"]
    assert list(json.loads(run(monkeypatch, "verify_receipt", "--public-key")[1])) == [
        second["key_id"], first["key_id"],
    ]  # fmt: skip
    for receipt in (first, second):
        assert run(monkeypatch, "verify_receipt", "--user", alice.user_id, stdin=json.dumps(receipt))[0] == 0
    # With the older key gone, its receipts are nobody's.
    with_key(monkeypatch, "MEMORY_RECEIPT_KEY", new)
    assert run(monkeypatch, "verify_receipt", stdin=json.dumps(first))[0] == 1
    assert run(monkeypatch, "verify_receipt", stdin=json.dumps(second))[0] == 0


def test_a_receipt_signed_by_another_key_under_a_known_key_id_is_not_valid(alice, monkeypatch):
    remember(alice, "a")
    known = receipt_keys()[0].key_id
    with monkeypatch.context() as elsewhere:
        with_key(elsewhere, "MEMORY_RECEIPT_KEY", random_key())
        receipt = erased(alice)
    assert run(monkeypatch, "verify_receipt", stdin=json.dumps(receipt))[0] == 1
    assert run(monkeypatch, "verify_receipt", stdin=json.dumps(receipt | {"key_id": known}))[0] == 1


# erasures


def test_the_ledger_is_printed_as_lines_that_can_be_read_back(alice, bob, monkeypatch):
    remember(alice, "a", "b")
    remember(bob, "c")
    receipts = [erased(alice), erased(bob)]
    entries = [parse_entry(line) for line in ledger_of(monkeypatch, alice, bob).splitlines()]
    assert [(entry.user_hash, entry.erased_documents, entry.erased_chunks) for entry in entries] == [
        (alice.user_hash, 2, 2), (bob.user_hash, 1, 1),
    ]  # fmt: skip
    assert [entry.erased_at for entry in entries] == [datetime.fromisoformat(receipt["at"]) for receipt in receipts]
    since = (entries[0].erased_at + timedelta(microseconds=1)).isoformat()
    status, printed = run(monkeypatch, "erasures", "--since", since)
    users = [json.loads(line)["user_hash"] for line in printed.splitlines()]
    assert status == 0 and bob.user_hash in users and alice.user_hash not in users
    assert run(monkeypatch, "erasures", "--since", "yesterday")[0] == 2


# replay_erasures


def test_after_a_restore_everybody_who_came_back_is_erased_again_and_nobody_else(alice, bob, monkeypatch, superuser):
    """A whole backup, keys and all: what was erased opens again, until the replay."""
    alice.index("recipe", "Two lemons and a cup of poppy seeds.")
    fill(bob)
    backup = put_aside(superuser, alice)
    erased(alice)
    kept = ledger_of(monkeypatch, alice)
    superuser.execute("DELETE FROM memory_erasures WHERE user_hash = %s", [alice.user_hash])
    put_back(superuser, backup, without={"memory_rate_buckets"})
    forget_profiles()
    assert alice.query("poppy seeds").json()["results"]
    others = rows(superuser, bob)

    status, printed = run(monkeypatch, "replay_erasures", "--dry-run", "-", stdin=kept)
    assert (status, json.loads(printed)["returned"]) == (1, 1)
    assert alice.get("memory/documents/recipe").status_code == 200

    status, printed = run(monkeypatch, "replay_erasures", "-", stdin=kept)
    done = json.loads(printed)
    assert (status, done["entries"], done["returned"], done["failed"]) == (0, 1, 1, 0)
    assert (done["erased"] - done["unfinished"], done["dry_run"]) == (1, False)
    assert rows(superuser, alice).keys() <= NOT_ROWS
    assert kept.strip() in ledger_of(monkeypatch, alice).splitlines(), "the restored ledger has the entry again"
    assert rows(superuser, bob) == others

    status, printed = run(monkeypatch, "replay_erasures", "-", stdin=kept)
    assert (status, json.loads(printed)["erased"]) == (0, 0)


@pytest.mark.parametrize("missing", [{"memory_data_keys"}, {"memory_data_keys", "memory_search_keys"}])
def test_a_restore_without_the_keys_is_cleaned_as_well(alice, monkeypatch, superuser, missing):
    fill(alice)
    backup = put_aside(superuser, alice)
    erased(alice)
    put_back(superuser, backup, without={*missing, *NOT_ROWS})
    forget_profiles()
    assert alice.get("memory/documents/a").status_code == 503
    status, printed = run(monkeypatch, "replay_erasures", "-", stdin=ledger_of(monkeypatch, alice))
    assert (status, json.loads(printed)["erased_documents"]) == (0, 3)
    assert rows(superuser, alice).keys() == NOT_ROWS


@pytest.mark.parametrize(
    "table", ["memory_chunks", "memory_documents", "memory_lexical_blocks", "memory_data_keys", "memory_search_keys"]
)
def test_rows_that_came_back_without_their_user_are_found(alice, monkeypatch, superuser, table):
    fill(alice)
    backup = put_aside(superuser, alice)
    erased(alice)
    put_back(superuser, backup, without=set(TENANT_TABLES) - {table})
    status, printed = run(monkeypatch, "replay_erasures", "-", stdin=ledger_of(monkeypatch, alice))
    assert (status, json.loads(printed)["returned"]) == (0, 1)
    assert rows(superuser, alice).keys() == NOT_ROWS


def test_a_user_who_began_anew_after_the_erasure_is_left_alone(alice, monkeypatch, superuser):
    remember(alice, "a")
    erased(alice)
    remember(alice, "b")
    before = rows(superuser, alice)
    status, printed = run(monkeypatch, "replay_erasures", "-", stdin=ledger_of(monkeypatch, alice))
    assert (status, json.loads(printed)["returned"]) == (0, 0)
    assert rows(superuser, alice) == before
    assert alice.get("memory/documents/b").status_code == 200


def test_an_erasure_that_was_left_half_way_is_finished_without_the_ledger(alice, monkeypatch, superuser):
    fill(alice)
    superuser.execute("DELETE FROM memory_erasures WHERE user_hash = %s", [alice.user_hash])
    killed_at(monkeypatch, alice, "memory_documents")
    status, printed = run(monkeypatch, "replay_erasures", "--dry-run", "-")
    assert status == 1 and json.loads(printed)["unfinished"] >= 1
    status, printed = run(monkeypatch, "replay_erasures", "-")
    assert status == 0 and json.loads(printed)["unfinished"] >= 1
    assert rows(superuser, alice).keys() == NOT_ROWS
    assert json.loads(ledger_of(monkeypatch, alice))["erased_chunks"] == 3


def test_who_cannot_be_erased_now_is_left_for_the_next_run(alice, bob, monkeypatch, superuser):
    people, backups = (alice, bob), []
    for person in people:
        remember(person, "a")
        backups.append(put_aside(superuser, person))
        erased(person)
    kept = ledger_of(monkeypatch, *people)
    for backup in backups:
        put_back(superuser, backup, without={"memory_erasures"})
    erase_memory = ledger.erase_memory

    def fail_for_alice(**options):
        if bound_tenant() == alice.user_hash:
            raise OperationalError
        return erase_memory(**options)

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "erase_memory", fail_for_alice)
        status, printed = run(monkeypatch, "replay_erasures", "-", stdin=kept)
        assert (status, json.loads(printed)["failed"]) == (4, 1)
    assert "memory_documents" in rows(superuser, alice) and "memory_documents" not in rows(superuser, bob)
    status, printed = run(monkeypatch, "replay_erasures", "-", stdin=kept)
    assert (status, json.loads(printed)["returned"]) == (0, 1)
    assert "memory_documents" not in rows(superuser, alice)


def test_without_a_file_the_databases_own_ledger_is_replayed(alice, monkeypatch, superuser):
    remember(alice, "a")
    backup = put_aside(superuser, alice)
    erased(alice)
    before = json.loads(run(monkeypatch, "replay_erasures", "--dry-run")[1])
    put_back(superuser, backup)
    status, printed = run(monkeypatch, "replay_erasures", "--dry-run")
    after = json.loads(printed)
    assert (status, after["entries"], after["returned"]) == (1, before["entries"], before["returned"] + 1)


def test_two_replays_at_once_are_one_too_many(monkeypatch, superuser):
    superuser.execute("SELECT pg_advisory_lock(%s)", [Command.lock])
    assert run(monkeypatch, "replay_erasures", "-")[0] == 3
    superuser.execute("SELECT pg_advisory_unlock(%s)", [Command.lock])
    assert run(monkeypatch, "replay_erasures", "--dry-run", "-")[0] in (0, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("user_hash", "x" * 64), ("user_hash", None), ("id", "1"), ("erased_at", "2026-01-01T00:00:00"),
     ("erased_documents", -1), ("erased_chunks", True), ("unrecoverable_after", 5)],
)  # fmt: skip
def test_one_line_that_is_no_entry_stops_the_replay_before_it_begins(alice, monkeypatch, superuser, field, value):
    now = datetime.now(UTC).isoformat()
    entry = {"user_hash": alice.user_hash, "id": str(uuid.uuid4()), "erased_at": now, "unrecoverable_after": now,
             "erased_documents": 1, "erased_chunks": 1}  # fmt: skip
    remember(alice, "a")
    before = rows(superuser, alice)
    lines = f"{json.dumps(entry)}\n{json.dumps(entry | {field: value})}\n"
    status, said = run(monkeypatch, "replay_erasures", "-", stdin=lines)
    assert (status, said) == (2, "line 2: not a line of the ledger")
    assert rows(superuser, alice) == before


def test_the_runbook_keeps_every_table_of_keys_out_of_the_rows_backup_and_in_the_keys():
    runbook = (Path(settings.BASE_DIR) / "deploy/runbooks/erasure.md").read_text("utf-8")
    [of_rows] = re.findall(r"^ *pg_dump .*> rows\.dump$", runbook, re.MULTILINE)
    [of_keys] = re.findall(r"^ *pg_dump .*> keys\.dump$", runbook, re.MULTILINE)
    assert set(re.findall(r"--exclude-table-data=(\S+)", of_rows)) == set(KEY_TABLES)
    assert set(re.findall(r"--table=(\S+)", of_keys)) == set(KEY_TABLES)
