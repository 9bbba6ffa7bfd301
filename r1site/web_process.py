"""gunicorn as a child of the launcher: started, waited for, stopped."""

from __future__ import annotations

import ctypes
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
from contextlib import contextmanager, suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
READY_LIMIT_SECONDS = 120
READY_PROBE_SECONDS = 5
STOP_LIMIT_SECONDS = 10
POLL_SECONDS = 0.1
PR_SET_PDEATHSIG = 1


class WebProcessError(Exception):
    """gunicorn could not be started or did not stay up."""


@contextmanager
def serving(var: Path, port: int) -> Iterator[subprocess.Popen]:
    """gunicorn on 127.0.0.1:`port` inside the block, its output on our stderr; stopped at its end."""
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
        preexec_fn=die_with_parent,
    )
    try:
        yield child
    finally:
        _stop_child(child)


def wait_until_ready(child: subprocess.Popen, url: str) -> None:
    """Until `/health/ready` answers 200. Raises `WebProcessError` when gunicorn ends or time is up."""
    # No proxies: an http_proxy in the environment must not be asked for our own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + READY_LIMIT_SECONDS
    last = "no answer"
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise WebProcessError(f"gunicorn ended with status {child.returncode}; its output is above")
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
    raise WebProcessError(f"{url}/health/ready is not ready after {READY_LIMIT_SECONDS} s: {last}")


def check_port(port: int) -> None:
    """Raises `WebProcessError` unless a server could listen on `port` now."""
    if not 0 < port < 65536:
        raise WebProcessError(f"{port} is not a port number")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise WebProcessError(
                f"port {port} cannot be used ({error.strerror}): choose another with PORT=, or `make stop`"
            ) from None


def _stop_child(child: subprocess.Popen) -> None:
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(STOP_LIMIT_SECONDS)
    # Its workers too, which a master that was killed leaves behind.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def die_with_parent() -> None:
    """SIGTERM when the parent dies, however it does. Linux only; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
