"""The embedded PostgreSQL outlives crashes, shares itself between processes and keeps to its own folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from r1site.embedded import postmaster
from r1site.embedded.bootstrap import ROLES, ROLES_FILE, bootstrap
from r1site.embedded.cluster import Cluster
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.installation import PASSED_ON
from r1site.embedded.secrets import BOUND_TO_DATA, MAKERS, SecretsError, ensure_development_secrets, read_secret
from r1site.embedded.socket_folder import SOCKET_PATH_LIMIT_BYTES, socket_dir

PROJECT = Path(__file__).resolve().parents[2]
SECRET_CONTENT = "the-launch-code-is-4711"


@pytest.fixture
def base():
    """A short, private folder; pytest's own are too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="r1t"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(base):
    """A stopped cluster over `base`, its secrets made; stopped again afterwards."""
    cluster = make_cluster(base)
    yield cluster
    cluster.stop()


def make_cluster(base: Path, **options) -> Cluster:
    ensure_development_secrets(base / "secrets", database_exists=False)
    return Cluster(base / "postgres", durable=options.pop("durable", True), **options)


def connect(cluster: Cluster, *, user: str = SUPERUSER, dbname: str = "postgres", password: str | None = None):
    name = "POSTGRES_PASSWORD" if user == SUPERUSER else f"{user.upper()}_PASSWORD"
    password = password or read_secret(cluster.secrets_folder, name)
    return psycopg.connect(cluster.conninfo(user, password, dbname), autocommit=True)


def kill_everything(cluster: Cluster) -> None:
    """SIGKILL the server and all its children, as an out-of-memory killer or a power cut would."""
    parent = postmaster.postmaster_pid(cluster.data)
    family = [parent]
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            family.append(int(status.parent.name))
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert postmaster._ended(family, limit_seconds=30)


def test_starting_twice_keeps_the_same_server(cluster):
    cluster.start()
    first = postmaster.postmaster_pid(cluster.data)
    cluster.start()
    cluster.ensure_running()
    assert cluster.is_running()
    assert postmaster.postmaster_pid(cluster.data) == first
    assert cluster.leave() is True
    assert not cluster.is_running()


def test_no_secret_of_whoever_starts_the_server_stands_in_its_environment(cluster, monkeypatch):
    for name in ("MEMORY_ENCRYPTION_KEY", "PGDATA", "LC_MESSAGES", "AN_ACCESS_TOKEN"):
        monkeypatch.setenv(name, SECRET_CONTENT)
    cluster.start()
    # Read by the server itself: our own account may not look into another one's processes.
    own = f"/proc/{postmaster.postmaster_pid(cluster.data)}/environ"
    with connect(cluster) as connection:
        (found,) = connection.execute("SELECT pg_read_binary_file(%s)", [own]).fetchone()
    names = {line.partition(b"=")[0].decode() for line in found.split(b"\0") if line}
    assert {"PATH", "LC_ALL"} <= names
    # The shell's own, and two of PostgreSQL's.
    assert names <= {*PASSED_ON, "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_", "PG_GRANDPARENT_PID", "PGSYSCONFDIR"}
    assert SECRET_CONTENT.encode() not in found


def test_a_committed_row_survives_kill_nine_of_every_server_process(cluster):
    cluster.start()
    with connect(cluster) as connection:
        connection.execute("CREATE TABLE kept (value text)")
        connection.execute("INSERT INTO kept VALUES ('here')")
    kill_everything(cluster)
    assert (cluster.data / "postmaster.pid").exists()
    assert not cluster.is_running()
    cluster.start()
    with connect(cluster) as connection:
        assert connection.execute("SELECT value FROM kept").fetchall() == [("here",)]


def test_children_of_a_killed_server_do_not_stop_the_next_start(cluster):
    cluster.start()
    with closing(connect(cluster)) as busy:
        # A child that waits notices the server's death by itself; one that computes does not.
        busy.pgconn.send_query(b"DO $$ BEGIN RAISE NOTICE 'busy'; LOOP END LOOP; END $$")
        parent = postmaster.postmaster_pid(cluster.data)
        os.kill(parent, signal.SIGKILL)
        assert postmaster._ended([parent], limit_seconds=30)
        assert postmaster.is_alive(busy.info.backend_pid)
        cluster.start()
        assert cluster.is_running()
        assert not postmaster.is_alive(busy.info.backend_pid)


def test_a_pid_file_naming_an_unrelated_living_process_does_not_stop_the_start(cluster):
    cluster.start()
    kill_everything(cluster)
    # Of the server's own user: of another user's processes PostgreSQL knows that they are none of its own.
    owner = cluster.data.stat()
    switch = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "600"], cwd="/", **switch) as stranger:
        try:
            pid_file = cluster.data / "postmaster.pid"
            lines = pid_file.read_text().split("\n")
            pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]))
            assert not cluster.is_running()
            cluster.start()
            assert cluster.is_running()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_process_in_the_middle_of_an_exec_is_taken_for_alive_and_for_what_it_becomes():
    again = 'exec /bin/sh -c "$0" "$0"'
    with subprocess.Popen(["/bin/sh", "-c", again, again]) as process:
        try:
            # About one look in twenty finds no command line.
            for _ in range(1_000):
                assert postmaster.is_alive(process.pid)
                assert postmaster._settled_command_line(process.pid)[0] == "/bin/sh"
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        assert not postmaster.is_alive(process.pid), "a zombie has ended"
    assert not postmaster.is_alive(process.pid)


def test_a_server_left_behind_by_a_killed_user_is_taken_over(cluster):
    program = (
        "import os, signal; from r1site.embedded.cluster import Cluster;"
        f"Cluster({str(cluster.root)!r}).ensure_running(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT)
    assert done.returncode == -signal.SIGKILL
    left_behind = postmaster.postmaster_pid(cluster.data)
    assert left_behind is not None
    with cluster:
        assert postmaster.postmaster_pid(cluster.data) == left_behind
    assert postmaster.postmaster_pid(cluster.data) is None


def test_two_processes_at_once_share_one_server_and_the_last_stops_it(cluster):
    program = (
        "import sys; from r1site.embedded import postmaster; from r1site.embedded.cluster import Cluster;"
        f"c = Cluster({str(cluster.root)!r}); c.ensure_running();"
        "print(postmaster.postmaster_pid(c.data), flush=True); sys.stdin.readline(); print(c.leave())"
    )
    users = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=PROJECT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    first, second = (user.stdout.readline().strip() for user in users)
    assert first == second != ""
    assert users[0].communicate("\n")[0].strip() == "False"
    assert cluster.is_running()
    assert users[1].communicate("\n")[0].strip() == "True"
    assert not cluster.is_running()


def test_the_folders_above_keep_their_modes_and_owners(base):
    closed = base / "a" / "b"
    closed.mkdir(parents=True)
    parents = [base, base / "a", closed]
    for folder, mode in zip(parents, (0o755, 0o751, 0o750 if os.geteuid() else 0o755), strict=True):
        folder.chmod(mode)
    before = [(f.stat().st_mode, f.stat().st_uid, f.stat().st_gid) for f in parents]
    cluster = make_cluster(closed)
    with cluster:
        assert cluster.data.stat().st_mode & 0o777 == 0o700
        assert cluster.socket_folder.stat().st_mode & 0o777 == 0o700
    assert [(f.stat().st_mode, f.stat().st_uid, f.stat().st_gid) for f in parents] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to another user")
def test_root_may_keep_the_project_in_a_folder_closed_to_others(cluster, base):
    cluster.start()
    with connect(cluster) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS value")
    cluster.stop()
    closed = Path(tempfile.mkdtemp(prefix="r1t"))
    try:
        # Copied as `cp -r` does: the copy is root's.
        for name in ("postgres", "secrets"):
            subprocess.run(["cp", "-r", base / name, closed], check=True)
        with Cluster(closed / "postgres") as moved, connect(moved) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (1,)
            pid = postmaster.postmaster_pid(moved.data)
            assert os.stat(f"/proc/{pid}").st_uid != 0 or moved.data.stat().st_uid != 0
        assert closed.stat().st_mode & 0o777 == 0o700
        assert closed.stat().st_uid == 0
    finally:
        shutil.rmtree(closed)


def test_a_path_too_long_for_a_socket_moves_the_socket_to_a_private_folder(base):
    deep = base / ("d" * SOCKET_PATH_LIMIT_BYTES)
    deep.mkdir()
    cluster = make_cluster(deep)
    assert cluster.socket_folder == socket_dir(cluster.root) != cluster.root / "run"
    try:
        with cluster, connect(cluster) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert cluster.socket_folder.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(cluster.socket_folder, ignore_errors=True)


def test_every_connection_needs_the_password(cluster):
    cluster.start()
    bootstrap(cluster, cluster.secrets_folder, "r1")
    for user in (SUPERUSER, *ROLES):
        with connect(cluster, user=user, dbname="r1") as connection:
            assert connection.execute("SELECT current_user").fetchone() == (user,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect(cluster, user=user, dbname="r1", password="wrong")


def test_the_server_keeps_no_password_in_clear_and_logs_no_content(cluster):
    cluster.start()
    bootstrap(cluster, cluster.secrets_folder, "r1")
    with connect(cluster) as connection:
        verifiers = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname LIKE 'r1\\_%'").fetchall()
        connection.execute("CREATE TABLE unique_texts (value text PRIMARY KEY)")
        connection.execute("INSERT INTO unique_texts VALUES (%s)", (SECRET_CONTENT,))
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO unique_texts VALUES (%s)", (SECRET_CONTENT,))
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            connection.execute("SELECT %s::text::integer", (SECRET_CONTENT,))
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute(f"SELEC '{SECRET_CONTENT}'".encode())
    assert len(verifiers) == len(ROLES)
    assert all(verifier.startswith("SCRAM-SHA-256$") for (verifier,) in verifiers)
    log = cluster.log.read_text()
    assert "ready to accept connections" in log
    assert SECRET_CONTENT not in log


@pytest.mark.parametrize("name", BOUND_TO_DATA)
def test_a_lost_key_with_data_behind_it_is_refused_and_named(base, name):
    folder = base / "secrets"
    ensure_development_secrets(folder, database_exists=False)
    (folder / name).unlink()
    with pytest.raises(SecretsError, match=name):
        ensure_development_secrets(folder, database_exists=True)
    assert not (folder / name).exists()


def test_secrets_are_private_distinct_and_never_replaced(base):
    folder = base / "secrets"
    ensure_development_secrets(folder, database_exists=False)
    values = {name: read_secret(folder, name) for name in MAKERS}
    ensure_development_secrets(folder, database_exists=True)
    assert {name: read_secret(folder, name) for name in MAKERS} == values
    assert len(set(values.values())) == len(MAKERS)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


CATALOGUE = {
    "roles": "SELECT to_jsonb(r) - 'oid' FROM pg_roles r WHERE rolname LIKE 'r1\\_%' ORDER BY rolname",
    "members": "SELECT roleid::regrole::text, to_jsonb(m) - 'oid' FROM pg_auth_members m ORDER BY m::text",
    "settings": "SELECT to_jsonb(s) FROM pg_db_role_setting s ORDER BY s::text",
    "defaults": "SELECT to_jsonb(d) - 'oid' FROM pg_default_acl d ORDER BY d::text",
    "database": "SELECT datacl::text FROM pg_database WHERE datname = current_database()",
    "schema": "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'",
}


@pytest.mark.parametrize("installation", ["pginstall18", "pginstall"])
def test_roles_sql_run_again_changes_nothing_and_repairs_what_drifted(base, installation):
    cluster = make_cluster(base, durable=False, installation=installation)
    with cluster:
        bootstrap(cluster, cluster.secrets_folder, "r1")
        with connect(cluster, dbname="r1") as connection:

            def catalogue() -> str:
                return json.dumps({k: connection.execute(q).fetchall() for k, q in CATALOGUE.items()})

            once = catalogue()
            connection.execute(ROLES_FILE.read_bytes())
            assert catalogue() == once
            connection.execute("ALTER ROLE r1_app BYPASSRLS CREATEDB")
            connection.execute("GRANT r1_maint TO r1_app; GRANT CREATE ON SCHEMA public TO r1_app")
            connection.execute(ROLES_FILE.read_bytes())
            assert catalogue() == once


def test_the_roles_can_do_what_they_must_and_no_more(cluster):
    cluster.start()
    bootstrap(cluster, cluster.secrets_folder, "r1")
    with connect(cluster, dbname="r1") as connection:
        attributes = connection.execute(
            "SELECT rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
            " FROM pg_roles WHERE rolname LIKE 'r1\\_%' ORDER BY rolname"
        ).fetchall()
        memberships = connection.execute(
            "SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members"
            " WHERE member::regrole::text LIKE 'r1\\_%'"
        ).fetchall()
    plain = (True, False, False, False, False)
    bypassing = {"r1_backup", "r1_maint"}
    assert attributes == [(role, *plain, role in bypassing) for role in sorted(ROLES)]
    assert memberships == [("r1_owner", "r1_backup")]

    with connect(cluster, user="r1_owner", dbname="r1") as owner:
        owner.execute("CREATE TABLE notes (id integer, embedding halfvec(3))")
        owner.execute("INSERT INTO notes VALUES (1, '[1,2,3]')")
        with owner.transaction():
            owner.execute("CREATE VIEW notes_meta AS SELECT id FROM notes")
            owner.execute("GRANT SELECT ON notes_meta TO r1_staff")
            owner.execute("GRANT CREATE ON SCHEMA public TO r1_backup")
            owner.execute("ALTER VIEW notes_meta OWNER TO r1_backup")
            owner.execute("REVOKE CREATE ON SCHEMA public FROM r1_backup")

    with connect(cluster, user="r1_app", dbname="r1") as app:
        settings = app.execute(
            "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
            " current_setting('idle_in_transaction_session_timeout'), current_setting('plan_cache_mode'),"
            " current_setting('enable_seqscan'), current_setting('max_parallel_workers_per_gather'),"
            " current_setting('row_security'), current_setting('search_path')"
        ).fetchone()
        assert settings == ("5s", "1500ms", "10s", "force_custom_plan", "off", "0", "on", "public")
        for statement in (
            "SELECT * FROM notes",
            "CREATE TABLE mine (id integer)",
            "CREATE TEMPORARY TABLE mine (id integer)",
            "SET ROLE r1_owner",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(statement)
    with connect(cluster, user="r1_staff", dbname="r1") as staff:
        assert staff.execute("SELECT id FROM notes_meta").fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            staff.execute("SELECT id FROM notes")
    with connect(cluster, user="r1_backup", dbname="r1") as backup:
        assert backup.execute("SELECT id FROM notes").fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            backup.execute("CREATE TABLE mine (id integer)")
    with connect(cluster, user="r1_maint", dbname="r1") as maint:
        assert maint.execute("UPDATE notes SET id = 2").rowcount == 1
    with connect(cluster, user="r1_owner", dbname="r1") as owner, owner.transaction():
        owner.execute("SET LOCAL ROLE r1_backup")
        owner.execute("DROP VIEW notes_meta")


def test_a_stopped_server_does_not_answer(cluster):
    cluster.start()
    cluster.stop()
    cluster.stop()
    assert cluster._ping() == pq.Ping.NO_RESPONSE
