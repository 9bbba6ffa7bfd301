"""Real processes: a command that is stopped in the middle says what it has done, and one that cannot begin says why."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import OperationalError
from psycopg.conninfo import make_conninfo

from memory.erasure.ledger import LedgerEntry
from memory.maintenance.command import Exit, ServiceCommand
from memory.maintenance.expiry import BATCH_ROWS
from r1site.embedded.secrets import ensure_development_secrets
from r1site.settings.databases import ROLES
from tests.api.test_erase import rows
from tests.db.memories import remember
from tests.db.scratch import scratch_database
from tests.db.server import connect, conninfo

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

PATIENCE_SECONDS = 60
_WAITS_FOR_US = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid)))"""


def command(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=settings.BASE_DIR,
        env=os.environ | (environment or {"DJANGO_SETTINGS_MODULE": "r1site.settings.test"}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextmanager
def held(sql: str, params: list) -> Iterator:
    """A row that nobody else gets past, for as long as the block lasts; gives what waits until somebody tries."""
    with connect("postgres") as holder, connect("postgres") as watcher:
        holder.execute("BEGIN")
        assert holder.execute(sql, params).fetchone(), "there is such a row"

        def until_somebody_waits(process: subprocess.Popen) -> None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not watcher.execute(_WAITS_FOR_US, [holder.info.backend_pid]).fetchone()[0]:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)

        yield until_somebody_waits


def stopped(process: subprocess.Popen) -> dict:
    """What a command says that gets SIGTERM now."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, err.splitlines()[-1]) == (4, "CommandError: interrupted; run it again"), err
    assert "Traceback" not in err
    return json.loads(out)


def expired_answers(superuser, person, count: int) -> None:
    superuser.execute(
        "INSERT INTO memory_idempotency (user_hash, key_mac, body_mac, answer_cipher, generation, created_at)"
        " SELECT %s, sha256(n::text::bytea), %s, %s, 1, now() - interval '2 days' FROM generate_series(1, %s) AS n",
        [person.user_hash, bytes(32), bytes(40), count],
    )


def test_a_stopped_prune_says_how_much_is_gone_and_the_next_one_goes_on(alice, superuser):
    superuser.execute("DELETE FROM memory_idempotency")  # What expired of other tests' users would go first.
    expired_answers(superuser, alice, BATCH_ROWS + 100)
    last = "SELECT 1 FROM memory_idempotency WHERE user_hash = %s ORDER BY ctid DESC LIMIT 1 FOR UPDATE"
    with held(last, [alice.user_hash]) as until_somebody_waits:
        process = command("prune_expired")
        until_somebody_waits(process)
        said = stopped(process)
    # What users of other tests have of documents that expired meanwhile goes too.
    assert said == {
        "dry_run": False, "documents": said["documents"], "users_left": said["users_left"],
        "answers": BATCH_ROWS, "buckets": 0, "sessions": 0, "keys_rewritten": False, "interrupted": True,
    }  # fmt: skip
    assert rows(superuser, alice)["memory_idempotency"] == 100
    out, err = command("prune_expired").communicate(timeout=PATIENCE_SECONDS)
    assert json.loads(out)["answers"] == 100, err
    assert "memory_idempotency" not in rows(superuser, alice)


def test_a_stopped_replay_says_whom_it_has_erased_and_the_next_one_goes_on(alice, bob, superuser, tmp_path):
    for person in (alice, bob):
        remember(person, "a", "b")
    now = datetime.now(UTC)
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(
        LedgerEntry(person.user_hash, uuid.uuid4(), now, now, 2, 2).line() + "\n" for person in (bob, alice)
    ))  # fmt: skip
    mine = "SELECT 1 FROM memory_chunks WHERE user_hash = %s LIMIT 1 FOR UPDATE"
    with held(mine, [alice.user_hash]) as until_somebody_waits:
        process = command("replay_erasures", str(ledger))
        until_somebody_waits(process)
        said = stopped(process)
    assert said == {
        "dry_run": False, "entries": 2, "returned": 2, "unfinished": 0, "erased": 1, "erased_documents": 2,
        "erased_chunks": 2, "failed": 0, "interrupted": True,
    }  # fmt: skip
    assert "memory_chunks" not in rows(superuser, bob) and rows(superuser, alice)["memory_chunks"] == 2
    out, err = command("replay_erasures", str(ledger)).communicate(timeout=PATIENCE_SECONDS)
    assert json.loads(out)["erased"] >= 1, err
    assert "memory_chunks" not in rows(superuser, alice)


@pytest.fixture(scope="module")
def unmigrated(django_db_setup, django_db_blocker, tmp_path_factory):
    """The environment of a service whose database has no tables yet."""
    folder = tmp_path_factory.mktemp("unmigrated")
    ensure_development_secrets(folder / "secrets", database_exists=False)
    with django_db_blocker.unblock(), scratch_database("unmigrated_process") as scratch:
        urls = {alias: make_conninfo(**conninfo(role, scratch.name)) for alias, role in ROLES.items()}
        yield {
            "DJANGO_SETTINGS_MODULE": "r1site.settings.dev",
            "R1_VAR_DIR": str(folder),
            "DATABASE_URL": urls.pop("default"),
            **{f"DATABASE_{alias.upper()}_URL": url for alias, url in urls.items()},
        }


@pytest.mark.parametrize(
    "arguments",
    [
        "flags",
        "erasures",
        "replay_erasures",
        "prune_expired",
        "explain_ann",
        "maintain_indexes",
        "register_space --if-none",
        "rotate_keys --status",
    ],
)
def test_on_an_unmigrated_database_a_command_ends_with_one_line_and_exit_code_4(unmigrated, arguments):
    process = command(*arguments.split(), environment=unmigrated)
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (4, ""), err
    assert err == ("CommandError: the database is not migrated: run `python manage.py migrate`, then this again\n")


class Breaking(ServiceCommand):
    """Is interrupted at work, and fails to clean up after it."""

    def handle(self, **options):
        self.work(lambda: {"done": 3})
        try:
            raise KeyboardInterrupt
        finally:
            raise OperationalError("the connection is lost") from None


def test_an_interrupt_that_makes_the_cleaning_up_fail_is_still_called_one():
    out = io.StringIO()
    with pytest.raises(CommandError, match="interrupted") as ended:
        call_command(Breaking(), stdout=out)
    assert ended.value.returncode == Exit.PARTIAL
    assert json.loads(out.getvalue()) == {"done": 3, "interrupted": True}
