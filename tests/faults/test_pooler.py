"""A real pgbouncer in transaction mode between the service and its database: `make test-pooler` brings one.

Two server connections carry everybody in turn, so whoever were bound for longer than his transaction would be met by
the next user at once.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from r1site.embedded.cluster import Cluster
from r1site.embedded.secrets import read_secret
from r1site.settings.databases import ROLES
from tests.faults.service import Service, free_port, running

PGBOUNCER = os.environ.get("R1_PGBOUNCER") or shutil.which("pgbouncer")
SERVER_CONNECTIONS = 2
PATIENCE_SECONDS = 30
CONFIGURATION = """
[databases]
r1 = host={socket_folder} dbname=r1
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {connections}
logfile = {folder}/log
{user}
"""

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer is at hand: make test-pooler brings one")


@pytest.fixture(scope="module")
def direct() -> Iterator[Service]:
    """A service straight at its own database, which the pooler stands before too."""
    with running() as service:
        yield service


@pytest.fixture(scope="module")
def pooled_url(direct, folder_of_pooler) -> Iterator[str]:
    """r1_app's connection through pgbouncer."""
    password = read_secret(direct.var / "secrets", "R1_APP_PASSWORD")
    socket_folder, port = Cluster(direct.var / "postgres").socket_folder, free_port()
    owner = pwd.getpwuid(socket_folder.stat().st_uid)
    # It refuses to be root, and only the server's own account enters the folder of its socket.
    user = f"user = {owner.pw_name}" if os.geteuid() == 0 else ""
    (folder_of_pooler / "users").write_text(f'"r1_app" "{password}"\n')
    (folder_of_pooler / "pgbouncer.ini").write_text(
        CONFIGURATION.format(
            socket_folder=socket_folder, port=port, folder=folder_of_pooler, user=user, connections=SERVER_CONNECTIONS
        )
    )
    if os.geteuid() == 0:
        for path in (folder_of_pooler, *folder_of_pooler.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    process = subprocess.Popen([PGBOUNCER, str(folder_of_pooler / "pgbouncer.ini")], stderr=subprocess.DEVNULL)
    url = make_conninfo(host="127.0.0.1", port=port, dbname="r1", user="r1_app", password=password, sslmode="disable")
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (folder_of_pooler / "log").read_text()
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def folder_of_pooler(direct) -> Path:
    """Beside the service's data, where the server's account gets in."""
    folder = direct.var.parent / "pooler"
    folder.mkdir()
    direct.var.parent.chmod(0o711)
    return folder


@pytest.fixture(scope="module")
def pooled(direct, pooled_url) -> Iterator[Service]:
    """A second service on the same database, through the pooler; what is not r1_app's goes past it."""
    service = Service(direct.var.parent / "pooled")
    cluster, secrets = Cluster(direct.var / "postgres"), direct.var / "secrets"
    service.environment |= {"DATABASE_URL": pooled_url, "MEMORY_DB_PREPARES": "false"}
    for alias, role in ROLES.items():
        if alias != "default":
            url = cluster.conninfo(role, read_secret(secrets, f"{role.upper()}_PASSWORD"), "r1")
            service.environment[f"DATABASE_{alias.upper()}_URL"] = url
    for name in ("MEMORY_ENCRYPTION_KEY", "MEMORY_TENANT_HMAC_KEY"):
        service.environment[name] = read_secret(secrets, name)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def test_users_who_take_turns_on_two_server_connections_each_find_what_is_theirs(pooled):
    def work(number: int) -> list[set[str]]:
        token, found = pooled.token(f"user-{number}"), []
        for turn in range(6):
            text = f"The word heliotrope{turn} was said to number {number}."
            status, _ = pooled.call("POST", "/api/v1/memory/index", token, {"doc_id": f"d{turn}", "text": text})
            assert status == 201
            status, answer = pooled.call("POST", "/api/v1/memory/query", token, {"query": "heliotrope", "top_k": 10})
            assert status == 200
            found.append({result["text"] for result in answer["results"]})
        return found

    people = 6
    with ThreadPoolExecutor(people) as threads:
        answers = list(threads.map(work, range(people)))
    for number, of_user in enumerate(answers):
        assert [len(found) for found in of_user] == [1, 2, 3, 4, 5, 6]
        assert all(text.endswith(f"number {number}.") for found in of_user for text in found)


def test_nobody_is_bound_on_a_server_connection_that_somebody_has_used(pooled, pooled_url):
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as connection:
        for _ in range(3 * SERVER_CONNECTIONS):
            assert connection.execute("SELECT current_setting('app.user_hash', true)").fetchone()[0] in (None, "")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT count(*) FROM memory_chunks")


def test_what_one_service_has_stored_the_other_finds(direct, pooled):
    body = {"doc_id": "shared", "text": "The word gentian was said."}
    assert direct.call("POST", "/api/v1/memory/index", direct.token("both"), body)[0] == 201
    status, answer = pooled.call("POST", "/api/v1/memory/query", pooled.token("both"), {"query": "gentian"})
    assert (status, [result["text"] for result in answer["results"]]) == (200, ["The word gentian was said."])
