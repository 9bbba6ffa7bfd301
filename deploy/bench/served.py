"""The whole service as a bench drives it: started, called and looked at from outside."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ANSWER_LIMIT_SECONDS = 120


class Served:
    """`python -m r1site.launch serve` over `var`, with what a bench asks of it.

    `root` is the checkout that is served, `python` what serves it, `settings` stand beside the environment's own.
    """

    def __init__(self, var: Path, *, root: Path = ROOT, python: str = sys.executable, settings: dict | None = None):
        self.var, self.root, self.python = var, root, python
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEMORY_", "DJANGO_"))}
        rates = {f"MEMORY_RATE_{name}": "off" for name in ("QUERY", "INDEX", "CHUNKS", "DEFAULT")}
        # R1_STOP_WITH_PARENT: no server is left when this process is killed.
        self.environment = {**kept, "R1_VAR_DIR": str(var), "R1_STOP_WITH_PARENT": "1", **rates}
        self.environment |= settings or {}

    def __enter__(self) -> Served:
        log_path = self.var.with_name(f"{self.var.name}.log")
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", "r1site.launch", "serve", "--port", str(self.port)],
                cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        if not self.process.stdout.readline().startswith("ready "):
            self.process.kill()
            raise SystemExit(f"the service did not start: {log_path.read_text()[-2000:]}")
        return self

    def __exit__(self, *exc_info) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def token(self, user: str) -> str:
        command = [self.python, "manage.py", "issue_token", "--user", user, "--ttl", "24h"]
        environment = {**self.environment, "DJANGO_SETTINGS_MODULE": "r1site.settings.dev"}
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_LIMIT_SECONDS)

    def superuser(self, database: str = "postgres"):
        """A connection past every policy; the service's own tables are in the database `r1`."""
        import psycopg

        return psycopg.connect(self.conninfo(database), autocommit=True)

    def conninfo(self, database: str) -> str:
        """How to connect as the superuser."""
        from r1site.embedded.cluster import Cluster
        from r1site.embedded.data_folder import SUPERUSER
        from r1site.embedded.secrets import read_secret

        secret = read_secret(self.var / "secrets", "POSTGRES_PASSWORD")
        return Cluster(self.var / "postgres").conninfo(SUPERUSER, secret, database)
