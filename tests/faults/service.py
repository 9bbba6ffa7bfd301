"""The service as a user runs it: the launcher, gunicorn, PostgreSQL, each a real process over real sockets."""

from __future__ import annotations

import fcntl
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psycopg

from deploy.bench.wire import mint_tokens
from r1site.embedded.cluster import Cluster
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.secrets import read_secret

ROOT = Path(__file__).resolve().parents[2]
END_LIMIT_SECONDS = 30


# Below those that a kernel gives to outgoing connections (32768 and up on Linux): what is free stays free until the
# server that it is meant for has started. Each process that runs tests starts somewhere of its own.
_ports = itertools.cycle(random.SystemRandom().sample(range(10_000, 32_000), 2_000))


def free_port() -> int:
    """A TCP port of this machine that nobody listens on, and another one at each call."""
    for port in itertools.islice(_ports, 2_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# Of the run that this process is a worker of, or of this process.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or str(os.getpid())


@contextmanager
def _alone(how: int) -> Iterator[Path]:
    """The folder of prepared `var`s, beside the suite's clusters; LOCK_EX to write in it, LOCK_SH to copy from it."""
    folder = Path(os.environ.get("R1_VAR_DIR") or ROOT / "var").absolute() / "suite-prepared"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, how)
        yield folder


@cache
def _prepare() -> None:
    """Set up this run's `var`, whichever of its processes comes first, and remove those of earlier runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEMORY_", "DJANGO_"))}
    with _alone(fcntl.LOCK_EX) as folder:
        if (folder / _RUN / "done").exists():
            return
        for earlier in folder.iterdir():
            shutil.rmtree(earlier, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-m", "r1site.launch", "prepare"],
            cwd=ROOT, env=kept | {"R1_VAR_DIR": str(folder / _RUN / "var"), "R1_STOP_WITH_PARENT": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        (folder / _RUN / "done").touch()


def _copy_prepared(var: Path) -> None:
    _prepare()
    with _alone(fcntl.LOCK_SH) as folder:
        subprocess.run(["cp", "-a", str(folder / _RUN / "var"), str(var)], check=True)


class Service:
    """`python -m r1site.launch serve` over a data folder of its own.

    With `is_prepared` a folder that is not there yet is a copy of one that was set up before: only secrets are shared.
    """

    # Whose code runs.
    tree = ROOT
    is_prepared = True

    def __init__(self, var: Path):
        self.var = var
        self.port = free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MEMORY_", "DJANGO_"))},
            "R1_VAR_DIR": str(var),
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "1",
            # On every processor, and the quickest to start. What `auto` chooses: tests/unit/test_built_model.py and the
            # services of test_service.py and test_readme_walk.py.
            "MEMORY_EMBED_BACKEND": "onnx",
        }
        self.process: subprocess.Popen | None = None
        # A pipe that nobody reads would stop the service once it is full.
        self.log = var.with_name(f"{var.name}.log")

    def start(self) -> None:
        """Returns once the launcher has printed `ready`."""
        if self.is_prepared and not self.var.exists():
            _copy_prepared(self.var)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "r1site.launch", "serve", "--port", str(self.port)],
                cwd=self.tree, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        line = self.process.stdout.readline()
        if not line.startswith("ready "):
            self.process.kill()
            raise AssertionError(f"the service did not start: {self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(30)

    def token(self, user: str) -> str:
        """Of an hour, signed with the service's own secret: without a process, as `issue_token` would take."""
        if self.tree != ROOT or any(name.startswith("MEMORY_JWT") for name in self.environment):
            return self.manage("issue_token", "--user", user).strip()
        [token] = mint_tokens(self.var, [user])
        return token

    def flags(self, *arguments: str) -> None:
        """`manage.py flags` with these, as an operator calls it."""
        self.manage("flags", *arguments)

    def manage(self, *arguments: str) -> str:
        """What a management command says on stdout, called as an operator calls it."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.tree, env={**self.environment, "DJANGO_SETTINGS_MODULE": "r1site.settings.dev"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def call(self, method: str, path: str, token: str, body: dict | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        raw = None if body is None else json.dumps(body)
        connection.request(method, path, raw, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")

    def superuser(self) -> psycopg.Connection:
        """The service's own database, past every policy."""
        password = read_secret(self.var / "secrets", "POSTGRES_PASSWORD")
        conninfo = Cluster(self.var / "postgres").conninfo(SUPERUSER, password, "r1")
        return psycopg.connect(conninfo, autocommit=True)

    def processes(self) -> list[int]:
        """Every process started by this service: the launcher's session, gunicorn, and PostgreSQL over this folder."""
        postmaster = int((self.var / "postgres/data/postmaster.pid").read_text().splitlines()[0])
        started, pids = {self.process.pid, postmaster}, []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                pids.append((int(entry.name), int(fields[1]), int(fields[3])))
        found = set(started)
        for _ in range(5):
            found |= {pid for pid, parent, session in pids if parent in found or session in started}
        return sorted(found)

    def wait_until_gone(self, pids: list[int]) -> None:
        """Returns once none of `pids` runs; a dead one that its parent has not collected does not."""
        deadline = time.monotonic() + END_LIMIT_SECONDS
        while left := [pid for pid in pids if _is_alive(pid)]:
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.01)

    def raw(self, request: bytes, *, timeout_seconds: float = 10) -> bytes:
        """Send bytes as they are; whatever comes back until the server closes or goes quiet."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_seconds) as wire:
            wire.sendall(request)
            wire.settimeout(2)
            try:
                while block := wire.recv(65536):
                    received += block
            except TimeoutError:
                pass
        return received


@contextmanager
def running(*, is_prepared: bool = True, **environment: str) -> Iterator[Service]:
    """A service over a new data folder, with `environment` set beside what it has, as long as the block."""
    with tempfile.TemporaryDirectory(prefix="r1-") as folder:
        service = Service(Path(folder) / "var")
        service.is_prepared = is_prepared
        service.environment |= environment
        service.start()
        try:
            yield service
        finally:
            service.stop()
