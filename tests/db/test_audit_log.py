"""The log of who changed what: appended to, never changed in silence, by whomever."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import psycopg
import pytest
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction

from memory.audit.log import Anchor, first_break, head, lines, record
from memory.rollout.flags import forget_flags, set_flag
from tests.db.server import connect

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint", "staff"])


@pytest.fixture
def owner():
    """The superuser with triggers off: what no role of the service can do. What he does is undone."""
    with connect("postgres") as superuser, superuser.transaction(force_rollback=True):
        superuser.execute("SET LOCAL session_replication_role = replica")
        yield superuser


@pytest.fixture
def three() -> list[int]:
    return [record(actor="marta", action="test.line", subject=str(number)) for number in range(3)]


def broken_for(superuser: psycopg.Connection) -> int | None:
    """The first break as this connection sees it, within its transaction."""
    from memory.audit.log import _FIRST_BREAK

    return superuser.execute(_FIRST_BREAK).fetchone()[0]


def test_lines_follow_one_another_without_a_gap(three):
    assert three == list(range(three[0], three[0] + 3))
    assert first_break() is None
    assert head().id == three[-1]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE memory_audit SET actor = 'somebody else' WHERE id = %s",
        "UPDATE memory_audit SET at = at - interval '1 second' WHERE id = %s",
        """UPDATE memory_audit SET detail = '{"to": 1}' WHERE id = %s""",
        "UPDATE memory_audit SET hash = sha256('other') WHERE id = %s",
    ],
)
def test_a_line_that_was_changed_by_hand_is_named(owner, three, statement):
    owner.execute(statement, [three[1]])
    assert broken_for(owner) == three[1]


def test_a_line_that_was_taken_out_is_named_by_the_next(owner, three):
    owner.execute("DELETE FROM memory_audit WHERE id = %s", [three[1]])
    assert broken_for(owner) == three[2]


def test_an_end_that_was_written_anew_is_seen_against_what_was_kept_elsewhere(owner, three):
    kept = head()
    owner.execute("DELETE FROM memory_audit WHERE id = %s", [three[2]])
    owner.execute("SET LOCAL session_replication_role = origin")
    owner.execute(
        "INSERT INTO memory_audit (actor, action, subject, detail) VALUES ('marta', 'test.line', 'forged', '{}')"
    )
    # By itself the forged end is a good chain.
    assert broken_for(owner) is None
    [forged] = owner.execute("SELECT encode(hash, 'hex') FROM memory_audit WHERE id = %s", [three[2]]).fetchone()
    assert kept.hash != forged


@pytest.mark.parametrize("alias", ["default", "staff", "maint"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE memory_audit SET actor = 'x'",
        "DELETE FROM memory_audit",
        "TRUNCATE memory_audit",
        "INSERT INTO memory_audit VALUES (999999, now(), 'x', 'x', '', '{}', '', '')",
    ],
)
def test_no_role_of_the_service_changes_it(alias, statement):
    with pytest.raises(DatabaseError), transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(statement)


def test_the_service_itself_neither_reads_nor_writes_it_and_staff_does_both():
    for statement in (
        "SELECT * FROM memory_audit",
        "INSERT INTO memory_audit (actor, action, subject, detail) VALUES ('x', 'x', '', '{}')",
    ):
        with pytest.raises(DatabaseError), transaction.atomic(), connections["default"].cursor() as cursor:
            cursor.execute(statement)
    number = record(actor="staff", action="test.line", alias="staff")
    assert head("staff").id == number


def test_even_a_superuser_must_say_that_he_means_it():
    with connect("postgres") as superuser, pytest.raises(psycopg.Error, match="never changed"):
        superuser.execute("DELETE FROM memory_audit")


def test_many_writers_at_once_make_one_chain():
    def write(number: int) -> int:
        try:
            return record(actor=f"writer {number}", action="test.line")
        finally:
            connections["maint"].close()

    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(write, range(30)))
    assert len(set(ids)) == 30
    assert first_break() is None


def test_a_change_of_a_flag_and_its_line_come_together_or_not_at_all(monkeypatch):
    before = lines()
    set_flag("RERANK_POOL", 5, actor="marta")
    set_flag("RERANK_POOL", None, actor="marta")
    forget_flags()
    assert lines() == before + 2
    with pytest.raises(DatabaseError):
        set_flag("RERANK_POOL", 6, actor="")
    with connections["maint"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM memory_flags WHERE name = 'RERANK_POOL'")
        assert cursor.fetchone() == (0,)


def test_the_command_prints_an_anchor_and_verifies_by_it(three):
    out = StringIO()
    call_command("audit", "anchor", stdout=out)
    anchor = json.loads(out.getvalue())["anchor"]
    out = StringIO()
    call_command("verify_audit", "--anchor", anchor, stdout=out)
    assert json.loads(out.getvalue()) == {"whole": True, "lines": lines(), "first_break": None}
    with pytest.raises(SystemExit) as ended:
        call_command("verify_audit", "--anchor", f"{three[0]}:{'0' * 64}", stdout=StringIO())
    assert ended.value.code == 1


def test_an_anchor_that_the_log_does_not_hold_is_seen(three):
    kept = head()
    assert first_break(kept) is None
    assert first_break(Anchor(kept.id, "0" * 64)) == kept.id
    assert first_break(Anchor(kept.id + 9, kept.hash)) == kept.id + 9
