"""The load beside a drill: reads that must be answered as before, and writes; each timed from when it was due."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

ANSWER_LIMIT_SECONDS = 30
THREADS = 16

_connections = threading.local()


@dataclass(frozen=True)
class Done:
    """One request: milliseconds from the moment that it was due."""

    phase: str
    kind: str
    status: int
    took_ms: float


def asked(port: int, token: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
    """(status, JSON); status 0 without an answer. A GET where there is no body. One connection a thread."""
    connection = getattr(_connections, "open", None)
    if connection is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_SECONDS)
        _connections.open = connection
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        raw = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", f"/api/v1/{path}", raw, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")
    except (OSError, http.client.HTTPException):
        connection.close()
        _connections.open = None
        return 0, {}


class Load:
    """Runs inside its block. `failed` and `differed` count over all phases."""

    def __init__(
        self, port: int, readers: list[str], writers: list[str], questions: list[str], turns: list[str],
        reads: float, writes: float,
    ):  # fmt: skip
        self.phase = "before"
        self.errors: Counter[str] = Counter()
        self.differed = 0
        self._port, self._readers, self._writers = port, readers, writers
        self._questions, self._turns = questions, turns
        self._rates = {"read": reads, "write": writes}
        self._before: dict[tuple[str, str], list[Any]] = {}
        self._written: dict[tuple[str, str], str] = {}
        self._done: list[Done] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def look_first(self) -> None:
        """What every question is answered before anything is rotated."""
        for token in self._readers:
            for question in self._questions:
                status, answer = self._query(token, question)
                if status != 200:
                    raise SystemExit(f"a question was answered {status} before the drill: {answer}")
                self._before[token, question] = _results(answer)

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(THREADS)
        self._threads = [threading.Thread(target=self._send, args=(kind,)) for kind in self._rates]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()

    def wrote_what_is_read(self) -> bool:
        """Whether every document of the writers reads as it was written last."""
        # This thread's own connection has been idle for so long that the service has closed it.
        _connections.open = None
        for (token, doc_id), text in self._written.items():
            status, answer = asked(self._port, token, f"memory/documents/{doc_id}", None)
            if (status, answer.get("text")) != (200, text):
                return False
        return bool(self._written)

    def report(self) -> dict[str, Any]:
        """By phase and kind: how many, how many failed, and the waits in milliseconds."""
        found: dict[str, Any] = {}
        for phase in dict.fromkeys(done.phase for done in self._done):
            for kind in self._rates:
                mine = [done for done in self._done if (done.phase, done.kind) == (phase, kind)]
                waits = sorted(done.took_ms for done in mine)
                if waits:
                    found[f"{phase}: {kind}s"] = {
                        "requests": len(mine),
                        "failed": sum(done.status not in (200, 201) for done in mine),
                        "median_ms": round(waits[len(waits) // 2], 1),
                        "p95_ms": round(waits[int(len(waits) * 0.95)], 1),
                        "longest_ms": round(waits[-1], 1),
                    }
        return found

    def _send(self, kind: str) -> None:
        """Request n is due n / rate seconds after the start, whatever became of those before."""
        started, number = time.monotonic(), 0
        while not self._ended.wait(max(0.0, started + number / self._rates[kind] - time.monotonic())):
            due = started + number / self._rates[kind]
            self._pool.submit(self._read if kind == "read" else self._write, number, due)
            number += 1

    def _read(self, number: int, due: float) -> None:
        phase = self.phase
        token = self._readers[number % len(self._readers)]
        question = self._questions[number // len(self._readers) % len(self._questions)]
        status, answer = self._query(token, question)
        self._note(phase, "read", status, answer, due)
        if status == 200 and _results(answer) != self._before[token, question]:
            with self._lock:
                self.differed += 1

    def _write(self, number: int, due: float) -> None:
        phase = self.phase
        token = self._writers[number % len(self._writers)]
        doc_id, text = f"w{number % 50}", f"{number}: {self._turns[number % len(self._turns)]}"
        status, answer = asked(self._port, token, "memory/index", {"doc_id": doc_id, "text": text})
        self._note(phase, "write", status, answer, due)
        if status in (200, 201):
            with self._lock:
                self._written[token, doc_id] = text

    def _note(self, phase: str, kind: str, status: int, answer: dict[str, Any], due: float) -> None:
        with self._lock:
            self._done.append(Done(phase, kind, status, (time.monotonic() - due) * 1000))
            if status not in (200, 201):
                self.errors[f"{phase} {kind} {status} {answer.get('code', '')}"] += 1

    def _query(self, token: str, question: str) -> tuple[int, dict[str, Any]]:
        return asked(self._port, token, "memory/query", {"query": question, "rerank": False, "decay_weight": 0})


def _results(answer: dict[str, Any]) -> list[Any]:
    return [(result["chunk_id"], result["scores"], result["text"]) for result in answer["results"]]
