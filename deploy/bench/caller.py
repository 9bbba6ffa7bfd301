"""One caller of the service over one connection that is kept alive, as an application's client has it."""

from __future__ import annotations

import json
import time

from deploy.bench.served import Served

# Documents a call when what a bench needs is stored.
DOCUMENTS_A_CALL = 50
# The service ends a connection that has been silent for a little longer (deploy/gunicorn/gunicorn.conf.py).
SILENT_MAX_SECONDS = 10.0


class Caller:
    """Posts to the service as one user. Raises SystemExit on any answer but 200 and 201."""

    def __init__(self, served: Served, user: str):
        self._connection = served.connection()
        self._used_at = 0.0
        self._headers = {"Authorization": f"Bearer {served.token(user)}", "Content-Type": "application/json"}

    def post(self, path: str, body: dict) -> dict:
        """`path` below /api/v1/; what was answered."""
        return json.loads(self._send(path, json.dumps(body).encode()))

    def timed(self, path: str, body: dict) -> float:
        """Milliseconds from before the request is sent to the last byte of its answer; JSON is left out of it."""
        raw = json.dumps(body).encode()
        started = time.perf_counter()
        self._send(path, raw)
        return (time.perf_counter() - started) * 1_000

    def store(self, documents: list[dict]) -> None:
        """In calls of DOCUMENTS_A_CALL."""
        for first in range(0, len(documents), DOCUMENTS_A_CALL):
            self.post("memory/index", {"documents": documents[first : first + DOCUMENTS_A_CALL]})

    def _send(self, path: str, raw: bytes) -> bytes:
        if time.monotonic() - self._used_at > SILENT_MAX_SECONDS:
            self._connection.close()
        self._connection.request("POST", f"/api/v1/{path}", raw, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        self._used_at = time.monotonic()
        if response.status not in (200, 201):
            raise SystemExit(f"{path} was answered {response.status}: {answer[:300].decode('utf-8', 'replace')}")
        return answer
