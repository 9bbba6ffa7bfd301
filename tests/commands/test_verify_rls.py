"""`manage.py verify_rls`: JSON on stdout, exit 0 when tenants are kept apart, 1 with findings when not."""

from __future__ import annotations

import json

import pytest

from memory.management.commands.verify_rls import Command
from tests.db.scratch import scratch_database


def verify_rls(capsys) -> tuple[int, dict]:
    """(exit status, the JSON printed) of the command line."""
    capsys.readouterr()
    status = 0
    try:
        Command().run_from_argv(["manage.py", "verify_rls"])
    except SystemExit as exc:
        status = exc.code
    return status, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def scratch(django_db_setup, django_db_blocker):
    """A migrated database of its own, to be broken."""
    with django_db_blocker.unblock(), scratch_database("verify") as scratch:
        scratch.migrate()
        yield scratch


@pytest.mark.django_db(transaction=True)
def test_the_suites_own_database_keeps_tenants_apart(capsys):
    assert verify_rls(capsys) == (0, {"isolated": True, "findings": []})


def test_each_finding_is_a_sentence_and_the_exit_status_is_1(scratch, capsys):
    with scratch.connect() as superuser, scratch.as_alias("default"):
        assert verify_rls(capsys) == (0, {"isolated": True, "findings": []})
        superuser.execute("ALTER TABLE memory_documents NO FORCE ROW LEVEL SECURITY")
        superuser.execute("GRANT SELECT ON memory_chunks TO PUBLIC")
        assert verify_rls(capsys) == (
            1,
            {
                "isolated": False,
                "findings": [
                    "memory_documents lacks FORCE ROW LEVEL SECURITY",
                    "memory_chunks grants SELECT to PUBLIC",
                ],
            },
        )
        superuser.execute("ALTER TABLE memory_documents FORCE ROW LEVEL SECURITY")
        superuser.execute("REVOKE SELECT ON memory_chunks FROM PUBLIC")
        assert verify_rls(capsys) == (0, {"isolated": True, "findings": []})


@pytest.mark.parametrize("role", ["r1_owner", "r1_maint"])
def test_it_judges_the_role_that_the_service_would_run_as(scratch, capsys, role):
    with scratch.as_alias("default", role=role):
        status, printed = verify_rls(capsys)
    assert (status, printed["isolated"]) == (1, False)
    assert f"the service runs as {role}; the policies are for r1_app" in printed["findings"]


def test_what_the_catalogue_does_not_show_two_users_find_out(scratch, capsys):
    """A guard that reads as it should, and answers for anybody before it comes to that."""
    with scratch.connect() as superuser, scratch.as_alias("default"):
        definition = superuser.execute(
            "SELECT pg_get_functiondef('memory_current_user_hash()'::regprocedure)"
        ).fetchone()[0]
        early = definition.replace("BEGIN\n", "BEGIN\n    IF bound IS NULL OR bound = '' THEN RETURN ''; END IF;\n", 1)
        assert early != definition
        superuser.execute(early)
        try:
            status, printed = verify_rls(capsys)
        finally:
            superuser.execute(definition)
        assert (status, printed["isolated"]) == (1, False)
        assert verify_rls(capsys) == (0, {"isolated": True, "findings": []})
