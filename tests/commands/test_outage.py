"""Every command that asks the database says in one line that it is away, and does not call that a finding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection, transaction

from memory.maintenance.command import ServiceCommand
from r1site.embedded.secrets import ensure_development_secrets
from tests.db.scratch import scratch_database


@pytest.mark.parametrize(
    "command",
    [
        "verify_rls",
        "flags",
        "flags set RERANK_POOL 5",
        "explain_ann",
        "maintain_indexes",
        "erasures",
        "replay_erasures",
    ],
)
def test_without_the_embedded_server_a_command_ends_with_one_line_and_exit_code_4(tmp_path, command):
    ensure_development_secrets(tmp_path / "secrets", database_exists=False)
    done = subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        cwd=settings.BASE_DIR,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "r1site.settings.dev", "R1_VAR_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("CommandError: the database cannot be reached: ")


class Impatient(ServiceCommand):
    requires_system_checks = []

    def handle(self, **options):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 1")
            cursor.execute("SELECT pg_sleep(60)")


@pytest.mark.django_db(transaction=True)
def test_a_statement_that_fails_is_named_without_what_the_server_says_of_it():
    with pytest.raises(CommandError) as failed:
        Impatient().execute(no_color=True, force_color=False, skip_checks=True)
    assert (str(failed.value), failed.value.returncode) == ("the database failed (QueryCanceled); run it again", 4)


class Halfway(Impatient):
    def handle(self, **options):
        self.work(lambda: {"rows": 7})
        super().handle(**options)


@pytest.mark.django_db(transaction=True)
def test_a_command_whose_database_fails_halfway_says_what_it_has_done(capsys):
    with pytest.raises(CommandError):
        Halfway().execute(no_color=True, force_color=False, skip_checks=True)
    assert json.loads(capsys.readouterr().out) == {"rows": 7, "database_failed": True}


@pytest.fixture(scope="module")
def unmigrated(django_db_setup, django_db_blocker):
    with (
        django_db_blocker.unblock(),
        scratch_database("unmigrated") as scratch,
        scratch.as_alias("default", "owner", "staff", "maint", "backup"),
    ):
        yield


@pytest.mark.parametrize("command", ["flags", "erasures", "replay_erasures", "prune_expired"])
def test_on_an_unmigrated_database_a_command_ends_with_what_to_do_and_exit_code_4(unmigrated, command):
    with pytest.raises(CommandError) as failed:
        call_command(command)
    assert str(failed.value) == "the database is not migrated: run `python manage.py migrate`, then this again"
    assert failed.value.returncode == 4


class Wrong(ServiceCommand):
    requires_system_checks = []

    def handle(self, **options):
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM WHERE")


@pytest.mark.django_db(transaction=True)
def test_a_statement_that_is_wrong_is_not_taken_for_an_unmigrated_database():
    with pytest.raises(ProgrammingError):
        Wrong().execute(no_color=True, force_color=False, skip_checks=True)


def test_every_command_of_the_service_is_one():
    folder = settings.BASE_DIR / "memory/management/commands"
    names = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    commands = {name: import_module(f"memory.management.commands.{name}").Command for name in names}
    assert len(commands) > 10
    assert [name for name, command in commands.items() if not issubclass(command, ServiceCommand)] == []
