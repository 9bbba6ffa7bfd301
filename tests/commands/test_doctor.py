"""`doctor` tells everything that is wrong at once, and each thing in a way that something can be done about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO

import pytest
from django.conf import settings as deployed
from django.core.management import call_command
from django.db import connections

from memory.maintenance.diagnosis import Finding
from memory.maintenance.doctor import examine
from memory.rollout.flags import forget_flags, set_flag
from tests.db.server import connect
from tests.factories import DocumentFactory

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])


def found(check: str, **options) -> list[Finding]:
    return [finding for finding in examine(**options) if finding.check == check]


def statuses(check: str) -> set[str]:
    return {finding.status for finding in found(check)}


def test_a_good_deployment_is_fit_and_each_thing_was_looked_at():
    out, err = StringIO(), StringIO()
    call_command("doctor", stdout=out, stderr=err)
    told = json.loads(out.getvalue())
    assert told["fit"] is True
    assert {finding["check"] for finding in told["findings"]} >= {
        "settings", "database", "pgvector", "pool", "isolation", "migrations", "keys", "models", "reranker", "flags",
        "clock", "disk", "pending",
    }  # fmt: skip
    for finding in told["findings"]:
        assert finding["detail"] in err.getvalue()
        assert bool(finding["hint"]) or finding["status"] == "ok"


def test_a_policy_that_is_gone_and_a_right_too_many_are_both_told():
    with connect("postgres") as superuser:
        superuser.execute("GRANT TRUNCATE ON memory_chunks TO r1_app")
        try:
            assert statuses("isolation") == {"fail"}
        finally:
            superuser.execute("REVOKE TRUNCATE ON memory_chunks FROM r1_app")


def test_more_connections_than_the_server_has_are_told(settings, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "400")
    assert statuses("pool") == {"fail"}
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    assert statuses("pool") == {"ok"}


def test_memory_that_is_switched_off_is_told():
    set_flag("MEMORY_ENABLED", False, actor="a test")
    try:
        assert statuses("flags") == {"warn"}
    finally:
        set_flag("MEMORY_ENABLED", None, actor="a test")
        forget_flags()


def test_what_expired_long_ago_and_is_still_there_is_told(alice):
    stored = DocumentFactory(person=alice)
    with connect("postgres") as superuser:
        superuser.execute(
            "UPDATE memory_documents SET expires_at = now() - interval '3 days' WHERE doc_id = %s", [stored.doc_id]
        )
    assert "warn" in statuses("pending")
    alice.post("memory/erase", {"confirm": alice.user_id})


def test_a_service_that_does_not_answer_is_told_beside_all_else():
    findings = examine(endpoint="http://127.0.0.1:9")
    assert {finding.check for finding in findings if finding.status == "fail"} == {"health", "metrics"}


def test_without_a_database_the_rest_is_looked_at_all_the_same(monkeypatch):
    monkeypatch.setattr(connections["default"], "cursor", lambda: (_ for _ in ()).throw(OSError("no route to host")))
    findings = examine()
    assert [finding.status for finding in findings if finding.check == "database"] == ["fail"]
    assert {"settings", "models", "disk", "keys"} <= {finding.check for finding in findings}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MEMORY_", "DJANGO_", "DATABASE"))
    }
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=deployed.BASE_DIR, env=kept | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_all_settings_that_are_missing_or_wrong_are_told_at_once_and_without_a_traceback():
    environment = {
        "DJANGO_SETTINGS_MODULE": "r1site.settings.prod",
        "MEMORY_CANARY_PCT": "200",
        "MEMORY_ENABLED": "maybe",
    }
    named = {"DATABASE_URL", "DJANGO_SECRET_KEY", "MEMORY_CANARY_PCT", "MEMORY_ENABLED", "MEMORY_JWT_SECRET"}
    for command, code in (("flags", 2), ("doctor", 1)):
        ended = run(command, **environment)
        assert ended.returncode == code
        assert "Traceback" not in ended.stderr
        assert {name for name in named if name in ended.stderr} == named
    told = json.loads(ended.stdout)
    assert told["fit"] is False
    assert len(told["findings"]) >= len(named)


def test_settings_that_are_not_there_are_named():
    ended = run("flags", DJANGO_SETTINGS_MODULE="r1site.settings.nowhere")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "r1site.settings.nowhere" in ended.stderr and "Traceback" not in ended.stderr


def test_a_python_without_the_packages_says_what_to_run():
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(deployed.BASE_DIR / "manage.py"), "flags"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "make setup" in ended.stderr and "Traceback" not in ended.stderr
