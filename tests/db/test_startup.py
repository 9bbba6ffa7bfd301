"""The service does not start where tenants would not be kept apart, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from r1site.embedded.data_folder import SUPERUSER
from r1site.settings.test import TEST_ROOT
from tests.db.scratch import ScratchDatabase, scratch_database
from tests.db.server import conninfo

PROJECT = Path(__file__).resolve().parents[2]
REFUSED = 3

# Who the service would run as -> what it says.
UNSAFE_ROLES = {
    SUPERUSER: "a superuser: row-level security does not apply to it",
    "r1_owner": "the service runs as r1_owner, the owner of",
    "r1_maint": "the service runs as r1_maint, which has BYPASSRLS",
    "r1_backup": "the service runs as r1_backup, which has BYPASSRLS",
    "r1_staff": "the service runs as r1_staff; the policies are for r1_app",
}
UNSAFE_TABLES = {
    "memory_chunks_p07": "memory_chunks_p07 lacks FORCE ROW LEVEL SECURITY",
    "memory_documents": "memory_documents lacks FORCE ROW LEVEL SECURITY",
}


def start(role: str, dbname: str | None = None, **environment: str) -> subprocess.Popen:
    """A process that imports the WSGI application as a server would, its database that of `role`."""
    return subprocess.Popen(
        [sys.executable, "-c", "import r1site.wsgi; print('serving')"],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {
            "DJANGO_SETTINGS_MODULE": "r1site.settings.dev", "R1_VAR_DIR": str(TEST_ROOT),
            "DATABASE_URL": make_conninfo(**conninfo(role, dbname)),
        } | environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def migrated(database) -> Iterator[ScratchDatabase]:
    with scratch_database("startup") as scratch:
        scratch.migrate()
        yield scratch


def test_it_starts_as_its_own_role_and_as_no_other(database):
    processes = {role: start(role) for role in ("r1_app", *UNSAFE_ROLES)}
    output = {role: process.communicate(timeout=120) for role, process in processes.items()}
    assert (processes["r1_app"].returncode, output["r1_app"][0]) == (0, "serving\n"), output["r1_app"]
    for role, reason in UNSAFE_ROLES.items():
        printed, said = output[role]
        assert (processes[role].returncode, printed) == (REFUSED, ""), said
        assert "refusing to start" in said and reason in said
        assert conninfo(role)["password"] not in said


@pytest.mark.parametrize("table", UNSAFE_TABLES)
def test_it_does_not_start_where_one_table_or_partition_lacks_force(migrated, table):
    with migrated.connect("r1_owner") as owner:
        owner.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        try:
            process = start("r1_app", migrated.name)
            printed, said = process.communicate(timeout=120)
        finally:
            owner.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    assert (process.returncode, printed) == (REFUSED, "")
    assert f"refusing to start: {UNSAFE_TABLES[table]}" in said


def test_it_warns_of_a_secret_whose_file_others_may_read(database, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret of the issuer, long enough for HS256")
    said = {}
    for mode in (0o600, 0o644):
        secret.chmod(mode)
        process = start("r1_app", MEMORY_JWT_SECRET_FILE=str(secret))
        printed, said[mode] = process.communicate(timeout=120)
        assert printed == "serving\n", said[mode]
    warning = "group or others may read or write the files of: MEMORY_JWT_SECRET\n"
    assert warning in said[0o644] and warning not in said[0o600]
    assert secret.read_text() not in said[0o644]


def test_it_does_not_start_on_a_database_without_tables(database):
    with scratch_database("bare") as scratch:
        process = start("r1_app", scratch.name)
        _, said = process.communicate(timeout=120)
    assert process.returncode == REFUSED
    assert "memory_chunks does not exist; run migrate" in said
