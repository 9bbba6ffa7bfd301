"""Start the service on one machine: `python -m r1site.launch run|serve|token|stop|prepare`.

Without DATABASE_URL it brings its own PostgreSQL under R1_VAR_DIR (default `var` beside `manage.py`):

1. make the secrets that are missing
2. join the embedded cluster, starting it if nobody runs it
3. bring database, roles and grants up to date
4. migrate as the owner
5. load the model and record its vector space (not for `token`)
6. serve, wait until ready; for `run` also load the demo and issue a token
7. on SIGINT or SIGTERM stop gunicorn, then leave the cluster; the last to leave stops it

With DATABASE_URL steps 1 to 3 are the operator's. Progress goes to stderr; stdout holds
`ready <url>` and `token <jwt>` (`run`), `ready <url>` (`serve`) or the bare token (`token`).
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psycopg

from r1site.embedded import launchers
from r1site.embedded.bootstrap import bootstrap
from r1site.embedded.cluster import Cluster
from r1site.embedded.errors import EmbeddedError
from r1site.embedded.secrets import ensure_development_secrets, read_secret

PROJECT = Path(__file__).resolve().parents[1]
GUNICORN_CONFIG = PROJECT / "deploy/gunicorn/gunicorn.conf.py"
DATABASE_NAME = "r1"
DEVELOPMENT_SETTINGS = "r1site.settings.dev"
DEMO_USER = "alice"
READY_LIMIT_SECONDS = 120
READY_PROBE_SECONDS = 5
GUNICORN_STOP_SECONDS = 10
POLL_SECONDS = 0.1
PACKAGES = ("django", "torch", "sentence-transformers")
PR_SET_PDEATHSIG = 1


class LaunchError(Exception):
    """The service could not be started; the message says what to do."""


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived."""


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done or stopped by a signal, 1 failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m r1site.launch", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "serve"):
        command = commands.add_parser(name)
        command.add_argument("--port", type=int, default=os.environ.get("PORT") or 8123)
    commands.add_parser("token").add_argument("--user", default=DEMO_USER)
    commands.add_parser("stop")
    commands.add_parser("prepare")
    options = parser.parse_args(argv)

    var = Path(os.environ.get("R1_VAR_DIR") or PROJECT / "var").resolve()
    os.environ["R1_VAR_DIR"] = str(var)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", DEVELOPMENT_SETTINGS)
    if os.environ.get("R1_STOP_WITH_PARENT"):
        _die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        if options.command == "stop":
            return stop(var)
        if options.command == "token":
            with prepared(var, with_model=False):
                print(_manage("issue_token", "--user", options.user), flush=True)
        elif options.command == "prepare":
            with prepared(var):
                pass
        else:
            serve(var, options.port, with_demo=options.command == "run")
    except Stopped:
        _say("stopped")
    except (LaunchError, EmbeddedError, TimeoutError, psycopg.Error) as error:
        _say(f"error: {error}")
        return 1
    return 0


@contextmanager
def prepared(var: Path, *, with_model: bool = True) -> Iterator[None]:
    """Steps 1 to 5; joined to the cluster inside the block."""
    url = os.environ.get("DATABASE_URL")
    cluster = nullcontext() if url else Cluster(var / "postgres")
    if os.environ["DJANGO_SETTINGS_MODULE"] == DEVELOPMENT_SETTINGS:
        ensure_development_secrets(var / "secrets", database_exists=not url and cluster.exists())
    _say("database: DATABASE_URL" if url else f"database: embedded, under {var / 'postgres'}")
    with cluster:
        if not url:
            bootstrap(cluster, var / "secrets", DATABASE_NAME)
            url = cluster.conninfo("r1_app", read_secret(var / "secrets", "R1_APP_PASSWORD"), DATABASE_NAME)
        _say(_server_versions(url))
        _say("migrating")
        _manage("migrate", "--database", "owner", "--verbosity", "0")
        if with_model:
            _say("loading the embedding model")
            _manage("register_space")
        yield


def serve(var: Path, port: int, *, with_demo: bool) -> None:
    """Steps 1 to 7; returns only by an exception (`Stopped` for a signal)."""
    url = f"http://127.0.0.1:{port}"
    _check_port(port)
    with launchers.registered(var / "launchers"):
        if with_demo:
            _say(_package_versions())
        with prepared(var), _gunicorn(var, port) as child:
            _wait_until_ready(child, url)
            if with_demo:
                _manage("demo", "--url", url, shown=True)
            print(f"ready {url}", flush=True)
            if with_demo:
                print(f"token {_manage('issue_token', '--user', DEMO_USER)}", flush=True)
            status = child.wait()
            raise LaunchError(f"gunicorn ended unexpectedly with status {status}; its output is above")


def stop(var: Path) -> int:
    """Stop the launchers over `var` and then its database. 1 if somebody still uses that."""
    for pid in launchers.stop_all(var / "launchers"):
        _say(f"stopped launcher {pid}")
    cluster = Cluster(var / "postgres")
    if not cluster.leave() and cluster.is_running():
        _say("the database is still in use by another process, which will stop it when it ends")
        return 1
    _say("stopped")
    return 0


@contextmanager
def _gunicorn(var: Path, port: int) -> Iterator[subprocess.Popen]:
    # A folder for each port: emptying one shared by two servers would drop the other's counts.
    metrics = var / "metrics" / str(port)
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "deploy/gunicorn/gunicorn.conf.py",
            "r1site.wsgi:application",
        ],
        cwd=PROJECT,
        env=os.environ | {"PORT": str(port), "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
        stdout=sys.stderr,
        # Of its own session, so that Ctrl-C reaches it through us, as a request to finish its work.
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    try:
        yield child
    finally:
        _stop_child(child)


def _stop_child(child: subprocess.Popen) -> None:
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(GUNICORN_STOP_SECONDS)
    # Its workers too, which a master that was killed leaves behind.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _wait_until_ready(child: subprocess.Popen, url: str) -> None:
    # No proxies: an http_proxy in the environment must not be asked for our own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + READY_LIMIT_SECONDS
    last = "no answer"
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise LaunchError(f"gunicorn ended with status {child.returncode}; its output is above")
        try:
            with opener.open(f"{url}/health/ready", timeout=READY_PROBE_SECONDS) as response:
                if response.status == 200:
                    return
                last = f"status {response.status}"
        except urllib.error.HTTPError as error:
            last = f"status {error.code}: {error.read(2000).decode('utf-8', 'replace')}"
        except OSError as error:
            last = str(error)
        time.sleep(POLL_SECONDS)
    raise LaunchError(f"{url}/health/ready is not ready after {READY_LIMIT_SECONDS} s: {last}")


def _check_port(port: int) -> None:
    if not 0 < port < 65536:
        raise LaunchError(f"{port} is not a port number")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LaunchError(
                f"port {port} cannot be used ({error.strerror}): choose another with PORT=, or `make stop`"
            ) from None


def _manage(*arguments: str, shown: bool = False) -> str:
    """Run a management command; its stdout without outer spaces, or '' if `shown` sends it to ours."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        stdout=None if shown else subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout or "")
        raise LaunchError(f"manage.py {arguments[0]} failed with status {done.returncode}; its output is above")
    return (done.stdout or "").strip()


def _package_versions() -> str:
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _server_versions(url: str) -> str:
    with psycopg.connect(url) as connection:
        (server,) = connection.execute("SHOW server_version").fetchone()
        extension = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return f"postgresql {server.split()[0]}, pgvector {extension[0] if extension else 'missing'}"


def _die_with_parent() -> None:
    """SIGTERM when the parent dies, however it does. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _on_signal(number: int, frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
