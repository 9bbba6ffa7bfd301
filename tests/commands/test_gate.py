"""`manage.py gate`: the evidence of both approvals, and that it fails where what it is evidence of is gone."""

from __future__ import annotations

import json

import pytest
from django.db import connections

from memory.maintenance import gate_performance
from memory.maintenance.binding_probe import binding_lines
from memory.maintenance.gate_performance import Plan
from memory.maintenance.gate_security import SPEED
from memory.maintenance.gate_users import GateUser
from memory.management.commands.gate import Command
from memory.sealing import columns, keyring, providers
from memory.security import seal

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])

# These have a sub-key of their own, which refuses a move into or out of them whatever they are bound to.
OF_THEIR_OWN_KEY = {columns.TEXT_COLUMN, columns.EMBEDDING_COLUMN}
MOVES = ("another user", "another row", "another generation", "other values beside it", "another column")


def gate(capsys, *arguments: str) -> tuple[int, dict]:
    """(exit status, the JSON printed) of the command line."""
    capsys.readouterr()
    status = 0
    try:
        Command().run_from_argv(["manage.py", "gate", *arguments])
    except SystemExit as exc:
        status = exc.code
    return status, json.loads(capsys.readouterr().out)


def failures(lines) -> set[str]:
    return {line.check for line in lines if not line.passed}


def test_the_security_approval_passes_and_both_its_documents_are_written(capsys, tmp_path):
    """But for how fast sealing is, which a busy machine has its say in."""
    status, result = gate(capsys, "--only", "security", "--out", str(tmp_path))
    assert [line for line in result["lines"] if not line["passed"] and line["part"] != SPEED] == []
    assert status == (0 if result["passed"] else 1)
    assert json.loads((tmp_path / "gate.json").read_text()) == result
    text = (tmp_path / "security_approval.md").read_text()
    assert all(f"| {line['check']} | " in text for line in result["lines"])
    for name in ("alice", "bob"):
        with connections["maint"].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM memory_tenants WHERE user_hash = %s", [GateUser(name).user_hash])
            assert cursor.fetchone() == (0,)


def test_without_the_binding_exactly_the_moves_that_it_refuses_fail(monkeypatch):
    """The mutation that shows what the gate looks at: associated data that says nothing."""
    whole = {line.check for line in binding_lines(connections["default"])}
    for module in (keyring, providers, columns):
        monkeypatch.setattr(module, "associated_data", lambda *fields: b"nothing")
    moves = {check for check in whole if check.partition(": ")[2] in MOVES}
    kept = {f"{column}: another column" for column in OF_THEIR_OWN_KEY}
    assert kept < moves
    assert failures(binding_lines(connections["default"])) == moves - kept


def test_one_column_that_is_bound_to_its_user_no_more_is_the_one_that_fails(monkeypatch):
    def unbound(key, place, text):
        return seal(text.encode(), b"", key.cipher(columns.Purpose.TEXT))

    monkeypatch.setattr(columns, "_text_aad", lambda key, place: b"")
    monkeypatch.setattr(columns, "seal_text", unbound)
    name = columns.TEXT_COLUMN
    assert failures(binding_lines(connections["default"])) == {
        f"{name}: {move}" for move in MOVES if move != "another column"
    }


def test_a_seal_that_is_not_authenticated_fails_every_line_of_a_changed_bit(monkeypatch):
    """Opened without its tag, a blob would be whatever somebody made of it."""
    monkeypatch.setattr(columns, "open_sealed", lambda blob, aad, key: bytes(blob))
    failed = failures(binding_lines(connections["default"]))
    for part in ("nonce", "ciphertext", "tag"):
        assert f"{columns.ANSWER_COLUMN}: a flipped bit of the {part}" in failed


def test_a_sealed_column_that_nobody_tries_fails_the_gate(superuser):
    superuser.execute("CREATE TABLE secret_notes (note_cipher bytea)")
    try:
        assert failures(binding_lines(connections["default"])) == {"every sealed column of the database is tried"}
    finally:
        superuser.execute("DROP TABLE secret_notes")


def test_a_measurement_over_its_limit_fails_the_performance_approval(capsys, tmp_path, monkeypatch):
    """Of the service's writes and queries; no cross-encoder is here, which fails its lines and says so."""
    monkeypatch.setattr(gate_performance, "QUERY_P95_MAX_MS", 0.001)
    arguments = ("--only", "performance", "--calls", "20", "--rerank-model", str(tmp_path / "none"))
    status, result = gate(capsys, *arguments, "--out", str(tmp_path))
    assert status == 1
    failed = [line for line in result["lines"] if not line["passed"]]
    assert {line["check"].partition(",")[0] for line in failed} >= {"query", "24 candidates of 256 tokens"}
    assert all(line["value"].startswith("none: ") for line in failed if line["part"] == gate_performance.RERANKING)
    assert "lines fail: not to be approved" in (tmp_path / "perf_approval.md").read_text()


def test_a_plan_too_small_for_a_percentile_is_refused():
    assert Plan().queries >= 20
    with pytest.raises(SystemExit) as refused:
        Command().run_from_argv(["manage.py", "gate", "--calls", "5"])
    assert refused.value.code == 2
