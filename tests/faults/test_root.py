"""Root starts gunicorn: a production worker is somebody else, a development one may stay root."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.service import ROOT, free_port
from tests.faults.test_start import NOWHERE, environment, get
from tests.unit.test_settings import GOOD

LIMIT_SECONDS = 120
GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn/gunicorn.conf.py", "r1site.wsgi"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def production(**settings: str) -> dict[str, str]:
    return environment(**GOOD | {"DATABASE_URL": NOWHERE, "WEB_CONCURRENCY": "1"} | settings)


def refusal(**settings: str) -> str:
    done = subprocess.run(GUNICORN, cwd=ROOT, env=production(**settings), capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr.strip()


def test_production_does_not_serve_as_root():
    assert "refusing to serve as root" in refusal()
    assert "refusing to serve as root" in refusal(DJANGO_SETTINGS_MODULE="ourown.settings")
    assert "must not be root" in refusal(GUNICORN_USER="root")
    assert "must not be root" in refusal(GUNICORN_USER="nobody", GUNICORN_GROUP="root")
    assert refusal(GUNICORN_USER="no such user") == "GUNICORN_USER names nobody on this machine"
    assert refusal(GUNICORN_GROUP="nogroup") == "GUNICORN_GROUP is set without GUNICORN_USER"


# The service's own configuration around an application that says who it is: loaded by the master, since the project
# may lie where other users cannot read it.
CONFIGURATION = f"""
exec(open({str(ROOT / "deploy/gunicorn/gunicorn.conf.py")!r}).read())
def post_worker_init(worker):
    pass
"""
APPLICATION = """
import json, os
def application(environ, start_response):
    try:
        open(os.environ["PROMETHEUS_MULTIPROC_DIR"] + "/mine", "w").close()
        counts = True
    except OSError:
        counts = False
    said = [os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"], counts]
    body = json.dumps(said).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.parametrize(
    ("settings", "user"),
    [
        ({"GUNICORN_USER": "nobody"}, "nobody"),
        ({"DJANGO_SETTINGS_MODULE": "r1site.settings.dev", "GUNICORN_USER": "nobody"}, "nobody"),
        ({"DJANGO_SETTINGS_MODULE": "r1site.settings.dev"}, "root"),
    ],
    ids=["production", "development as somebody", "development"],
)
def test_a_worker_is_the_user_it_is_told_to_be_and_in_no_group_of_roots(tmp_path, settings, user):
    (tmp_path / "conf.py").write_text(CONFIGURATION)
    (tmp_path / "whoami.py").write_text(APPLICATION)
    wanted, port, log = pwd.getpwnam(user), free_port(), tmp_path / "gunicorn.log"
    command = [*GUNICORN[:3], "-c", str(tmp_path / "conf.py"), "--preload", "whoami"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=production(PORT=str(port), PYTHONPATH=str(tmp_path), **settings),
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        users, groups, others, home, counts = json.loads(answer(process, port, log))
    finally:
        process.terminate()
        process.wait(30)
    assert (set(users), set(groups), counts) == ({wanted.pw_uid}, {wanted.pw_gid}, True)
    if user != "root":
        assert 0 not in others and home == wanted.pw_dir
    is_production = "DJANGO_SETTINGS_MODULE" not in settings
    assert log.read_text().count("only a proxy in front keeps such off") == is_production


def answer(process: subprocess.Popen, port: int, log: Path) -> str:
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        try:
            return get(port, "/")[1]
        except OSError:
            time.sleep(0.1)
