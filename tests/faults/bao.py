"""A real OpenBao server that keeps what it holds in a folder: it can be killed, and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

from tests.faults.service import free_port

PROGRAM = os.environ.get("R1_BAO") or shutil.which("bao")
KEY_NAME = "r1-memory"
# What the service may do, and no more: with "create" it would make a key that is not there.
POLICY = f'path "transit/encrypt/{KEY_NAME}" {{ capabilities = ["update"] }}\n' + (
    f'path "transit/decrypt/{KEY_NAME}" {{ capabilities = ["update"] }}\n'
)
PATIENCE_SECONDS = 60


class KeyServer:
    """`bao server` with a transit key; `token` is one that may wrap and unwrap with it, and nothing else."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self._address}"
        self._root_token = self._unseal_key = ""
        (folder / "storage").mkdir(parents=True)
        (folder / "configuration.hcl").write_text(
            f'storage "raft" {{\n path = "{folder}/storage"\n node_id = "one"\n}}\n'
            f'listener "tcp" {{\n address = "{self._address}"\n tls_disable = true\n}}\n'
            f'api_addr = "{self.url}"\ncluster_addr = "http://127.0.0.1:{free_port()}"\n'
        )
        self.start()
        made = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._root_token, [self._unseal_key] = made["root_token"], made["keys_base64"]
        self._unseal()
        self.ask("POST", "sys/mounts/transit", {"type": "transit"})
        self.ask("POST", f"transit/keys/{KEY_NAME}", {})
        self.ask("PUT", f"sys/policies/acl/{KEY_NAME}", {"policy": POLICY})
        self.token = self.ask("POST", "auth/token/create", {"policies": [KEY_NAME]})["auth"]["client_token"]

    def start(self) -> None:
        """Until it answers; what was started before is unsealed, and so is as it was."""
        with open(self._folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [str(PROGRAM), "server", f"-config={self._folder}/configuration.hcl"],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait_for("sys/seal-status")
        if self._unseal_key:
            self._unseal()

    def ask(self, method: str, path: str, said: dict | None = None) -> dict:
        body = None if said is None else json.dumps(said).encode()
        request = urllib.request.Request(f"{self.url}/v1/{path}", body, {"X-Vault-Token": self._root_token},
                                         method=method)  # fmt: skip
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read() or b"{}")

    def pause(self) -> None:
        """It takes connections and answers nothing, as a machine that hangs."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Nothing listens at its address any more."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        self.go_on()
        self.process.terminate()
        self.process.wait(30)

    def _unseal(self) -> None:
        self.ask("PUT", "sys/unseal", {"key": self._unseal_key})
        # Unsealed, it answers 429 or 503 until it has become active.
        self._wait_for("sys/health")

    def _wait_for(self, path: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.ask("GET", path)
                return
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.05)
