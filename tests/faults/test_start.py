"""Starting it: what the launcher and gunicorn refuse, and the plain gunicorn line of deploy/guide/serving.md."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from r1site.embedded.secrets import ensure_development_secrets
from r1site.settings.test import TEST_ROOT
from tests.faults.service import ROOT, free_port

READY_LIMIT_SECONDS = 120
NOWHERE = "host=127.0.0.1 port=1 dbname=r1 user=r1_app"
OURS = ("MEMORY_", "DJANGO_", "DATABASE_", "WEB_CONCURRENCY", "PROMETHEUS_")


def environment(**settings: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | settings


def launch(var: Path, command: str = "prepare", **settings: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "r1site.launch", command],
        cwd=ROOT, env=environment(**{"R1_VAR_DIR": str(var), "DATABASE_URL": NOWHERE, **settings}),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "MEMORY_ENCRYPTION_KEY"),
        (("MEMORY_ENCRYPTION_KEY",), "MEMORY_TENANT_HMAC_KEY"),
        (("MEMORY_TENANT_HMAC_KEY",), "MEMORY_ENCRYPTION_KEY"),
    ],
)
def test_the_launcher_makes_no_keys_for_a_database_that_is_not_its_own(tmp_path, given, missing):
    done = launch(tmp_path, **{name: new_key() for name in given})
    assert done.returncode == 1
    assert f"DATABASE_URL is set, but {missing} is not" in done.stderr
    assert not (tmp_path / "secrets").exists()


def test_with_the_keys_given_it_makes_only_what_no_row_depends_on(tmp_path):
    done = launch(tmp_path, MEMORY_ENCRYPTION_KEY=new_key(), MEMORY_TENANT_HMAC_KEY=new_key())
    assert "database: DATABASE_URL" in done.stderr
    made = {path.name for path in (tmp_path / "secrets").iterdir() if not path.name.startswith(".")}
    assert made == {"MEMORY_JWT_SECRET", "DJANGO_SECRET_KEY", "MEMORY_RECEIPT_KEY"}


def test_a_token_takes_the_secrets_and_neither_a_server_nor_a_word_beside_it(tmp_path):
    ensure_development_secrets(tmp_path / "secrets", database_exists=False)
    for settings in ({}, {"DATABASE_URL": ""}):
        done = launch(tmp_path, "token", **settings)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["secrets"]


def test_a_token_before_the_first_start_says_so_in_one_line(tmp_path):
    done = launch(tmp_path, "token", DATABASE_URL="")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: there is no MEMORY_JWT_SECRET under {tmp_path}/secrets yet: start the service")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("WEB_CONCURRENCY", "0"), ("GUNICORN_THREADS", "0"), ("GUNICORN_THREADS", "two")]
)
def test_gunicorn_refuses_a_count_that_is_none(name, value):
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn/gunicorn.conf.py", "r1site.wsgi"],
        cwd=ROOT, env=environment(**{name: value}), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.strip() == f"{name} must be a whole number of at least 1"


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Connection": "close"})
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.fixture
def plain_gunicorn(django_db_setup, tmp_path):
    """The gunicorn line of deploy/guide/serving.md, two workers over the suite's server; its port and its TMPDIR."""
    port = free_port()
    temporary = Path(tempfile.mkdtemp(dir=tmp_path))
    settings = {
        "DJANGO_SETTINGS_MODULE": "r1site.settings.dev", "R1_VAR_DIR": str(TEST_ROOT), "RERANK_BACKEND": "none",
        "PORT": str(port), "WEB_CONCURRENCY": "2", "TMPDIR": str(temporary),
    }  # fmt: skip
    with open(tmp_path / "gunicorn.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn/gunicorn.conf.py", "r1site.wsgi"],
            cwd=ROOT, env=environment(**settings), stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + READY_LIMIT_SECONDS
        while True:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "gunicorn.log").read_text()
            try:
                if get(port, "/health/ready")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        yield port, temporary
    finally:
        process.terminate()
        process.wait(30)
    assert not list(temporary.glob("r1-metrics-*"))


def test_plain_gunicorn_counts_the_requests_of_every_worker_in_every_answer(plain_gunicorn):
    port, temporary = plain_gunicorn
    counted = re.compile(r'^django_http_requests_total_by_view\w*\{.*r1site\.health\.live".*\} ([\d.]+)$', re.MULTILINE)
    assert len(list(temporary.glob("r1-metrics-*"))) == 1
    assert [json.loads(get(port, "/health/live")[1])["status"] for _ in range(40)] == ["ok"] * 40
    for _ in range(10):
        assert sum(map(float, counted.findall(get(port, "/metrics")[1]))) == 40
