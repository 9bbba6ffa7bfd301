"""The database away: probes stay cheap, liveness answers, and clients are told what it is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool, PoolTimeout

from r1site.embedded.cluster import Cluster
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.secrets import ensure_development_secrets, read_secret
from r1site.pool_outage import is_database_away
from r1site.settings.test import TEST_ROOT

PROJECT = Path(__file__).resolve().parents[2]

# Asks a service whose database is away, in its process: the pool counts how often it was asked.
PROBES = """
import json
from concurrent.futures import ThreadPoolExecutor

import django
django.setup()
from django.db import connections
from django.test import Client

def get(path, **headers):
    try:
        return Client(raise_request_exception=False).get(path, headers={"host": "localhost", **headers})
    finally:
        connections["default"].close()

with ThreadPoolExecutor(11) as threads:
    probes = [threads.submit(get, "/health/ready") for _ in range(10)]
    live = threads.submit(get, "/health/live").result()
    is_done_before_the_probes = not all(probe.done() for probe in probes)
    answers = [probe.result() for probe in probes]

asked = connections["default"].pool.get_stats()["requests_num"]

from memory.auth.mint import mint
from django.conf import settings
token = mint("alice", secret=settings.MEMORY_JWT_SECRET, algorithm="HS256", issuer=settings.MEMORY_JWT_ISSUER,
             audience=settings.MEMORY_JWT_AUDIENCE, ttl_seconds=60)
document = get("/api/v1/memory/documents/notes/1", authorization=f"Bearer {token}")
from memory.rollout.flags import flag
print(json.dumps({
    "flag": flag("RERANK_POOL"),
    "live": [live.status_code, is_done_before_the_probes],
    "ready": [answer.status_code for answer in answers],
    "components": answers[0].json()["components"],
    "asked": asked,
    "document": [document.status_code, document.json()["code"]],
}))
connections["default"].close_pool()
"""


@pytest.fixture(scope="module")
def found(cluster) -> dict:
    """What probes and clients of a service without its database saw."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", PROBES],
            cwd=PROJECT, capture_output=True, text=True, timeout=120,
            env=os.environ | {
                "DJANGO_SETTINGS_MODULE": "r1site.settings.dev", "R1_VAR_DIR": str(TEST_ROOT),
                "DATABASE_URL": f"host=127.0.0.1 port={port} dbname=r1 user=r1_app", "RERANK_BACKEND": "none",
            },
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_live_answers_while_ready_probes_wait(found):
    assert found["live"] == [200, True]


def test_ten_ready_probes_at_once_cost_one_run_of_the_checks(found):
    assert found["ready"] == [503] * 10
    assert found["asked"] == 1


def test_ready_says_what_is_away_and_what_is_not(found):
    components = found["components"]
    assert components["database"]["status"] == "failed"
    for name in ("role", "migrations", "embedder"):
        assert components[name] == {"status": "failed", "reason": "database"}
    assert components["keys"] | {"master_keys": 0} == {"status": "degraded", "reason": "database", "master_keys": 0}
    assert components["reranker"] == {"status": "ok", "backend": "none"}


def test_flags_are_the_settings_while_nobody_can_read_them(found):
    assert found["flag"] == 8


def test_a_client_is_told_that_the_database_is_away(found):
    assert found["document"] == [503, "database_unavailable"]


def test_a_busy_pool_and_one_whose_database_went_away_are_told_apart(tmp_path_factory):
    var = tmp_path_factory.mktemp("outage")
    ensure_development_secrets(var / "secrets", database_exists=False)
    cluster = Cluster(var / "postgres", durable=False)
    try:
        cluster.ensure_running()
        conninfo = cluster.conninfo(SUPERUSER, read_secret(var / "secrets", "POSTGRES_PASSWORD"), "postgres")
        with ConnectionPool(conninfo, min_size=1, max_size=2, timeout=2, check=ConnectionPool.check_connection) as pool:
            in_use = [pool.getconn(), pool.getconn()]
            with pytest.raises(PoolTimeout):
                pool.getconn(0.1)
            assert not is_database_away(pool)

            cluster.stop()
            for connection in in_use:
                pool.putconn(connection)
            for _ in range(2):
                with pytest.raises(PoolTimeout):
                    pool.getconn()
                assert is_database_away(pool)
    finally:
        cluster.leave()
        cluster.stop()
