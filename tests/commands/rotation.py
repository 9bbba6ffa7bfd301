"""A house of its own for tests of rotation: a database whose users' keys are all under a master key of the test's."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.core.management import call_command
from psycopg.conninfo import make_conninfo

from memory.isolation.audit import TENANT_TABLES
from memory.sealing.keyring import forget_profiles
from r1site.settings.databases import ROLES
from r1site.settings.test import TEST_ROOT
from tests.db.scratch import ScratchDatabase
from tests.db.server import connect, conninfo
from tests.people import Person

PATIENCE_SECONDS = 60
_WAITS_FOR_US = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid)))"


def rotate(*arguments: str) -> tuple[dict, int]:
    """`manage.py rotate_keys` in this process: what it says, and its exit code. As fast as it goes."""
    out = io.StringIO()
    if "--data" in arguments and "--rate" not in arguments:
        arguments += ("--rate", "0")
    try:
        call_command("rotate_keys", *arguments, stdout=out, stderr=io.StringIO())
        code = 0
    except SystemExit as exc:
        code = exc.code
    forget_profiles()
    return json.loads(out.getvalue()), code


def started(scratch: ScratchDatabase, *arguments: str) -> subprocess.Popen:
    """`manage.py rotate_keys` as a process of its own, on this database and with this process's keys."""
    urls = {alias: make_conninfo(**conninfo(role, scratch.name)) for alias, role in ROLES.items()}
    return subprocess.Popen(
        [sys.executable, "manage.py", "rotate_keys", *arguments],
        cwd=settings.BASE_DIR, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {
            "DJANGO_SETTINGS_MODULE": "r1site.settings.dev", "R1_VAR_DIR": str(TEST_ROOT),
            "DATABASE_URL": urls.pop("default"),
            **{f"DATABASE_{alias.upper()}_URL": url for alias, url in urls.items()},
        },
    )  # fmt: skip


@contextmanager
def killed_at(scratch: ScratchDatabase, row: str, params: list, *arguments: str) -> Iterator[None]:
    """Run `rotate_keys` until it waits for `row`, which is held, and kill it there: in the middle of a transaction."""
    with scratch.connect() as holder, connect("postgres") as watcher:
        holder.execute("BEGIN")
        assert holder.execute(row, params).fetchone(), "there is such a row"
        process = started(scratch, *arguments)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not watcher.execute(_WAITS_FOR_US, [holder.info.backend_pid]).fetchone()[0]:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
        holder.execute("ROLLBACK")
    yield


def under(scratch: ScratchDatabase, person: Person | None = None) -> dict[str, int]:
    """key id -> how many wrapped keys name it, of one person or all."""
    with scratch.connect() as superuser:
        rows = superuser.execute(
            "SELECT key_id, count(*) FROM (SELECT user_hash, key_id FROM memory_data_keys"
            " UNION ALL SELECT user_hash, key_id FROM memory_search_keys) k"
            " WHERE %(user)s::text IS NULL OR user_hash = %(user)s GROUP BY key_id",
            {"user": person and person.user_hash},
        )
        return dict(rows.fetchall())


def clear(superuser) -> None:
    """Nobody's rows are left, nothing is promoted and no run is under way."""
    for table in (*TENANT_TABLES, "memory_master_keys", "memory_key_rotations", "memory_workers"):
        superuser.execute(f"DELETE FROM {table}")
