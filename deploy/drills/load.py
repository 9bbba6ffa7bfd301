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

from deploy.bench.chats import load_lines
from deploy.bench.served import Served
from deploy.bench.wire import mint_tokens

ANSWER_LIMIT_SECONDS = 30
THREADS = 16
READERS, WRITERS, TURNS, QUESTIONS, TOP_K = 4, 4, 20, 5, 10

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
    if connection is None or connection.port != port:
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


def forget_connection() -> None:
    """This thread's own has been idle for so long that the service has closed it."""
    _connections.open = None


class Load:
    """Runs inside its block. `questions` are each reader's, by token. `failed` counts over all phases; `differing` are
    the answers, as (token, question, results), that were not those of before.

    `port` may be changed: from then on another instance of the service gets what comes, as a load balancer drains one.
    """

    def __init__(
        self, port: int, questions: dict[str, list[str]], writers: list[str], turns: list[str],
        reads: float, writes: float,
    ):  # fmt: skip
        self.phase = "before"
        self.errors: Counter[str] = Counter()
        self.differing: list[tuple[str, str, list[Any]]] = []
        self.port, self._writers, self._turns = port, writers, turns
        self._readers, self._questions = list(questions), questions
        self._rates = {"read": reads, "write": writes}
        self._before: dict[tuple[str, str], list[Any]] = {}
        self._written: dict[tuple[str, str], str] = {}
        self._done: list[Done] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def look_first(self) -> dict[tuple[str, str], list[Any]]:
        """What every question is answered before anything is changed."""
        self._before = self.look()
        return self._before

    def look(self) -> dict[tuple[str, str], list[Any]]:
        """What every reader's every question is answered now."""
        found = {}
        for token, questions in self._questions.items():
            for question in questions:
                status, answer = self._query(token, question)
                if status != 200:
                    raise SystemExit(f"a question was answered {status} before or after the drill: {answer}")
                found[token, question] = _results(answer)
        return found

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
        forget_connection()
        for (token, doc_id), text in self._written.items():
            status, answer = asked(self.port, token, f"memory/documents/{doc_id}", None)
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
        questions = self._questions[token]
        question = questions[number // len(self._readers) % len(questions)]
        status, answer = self._query(token, question)
        self._note(phase, "read", status, answer, due)
        if status == 200 and (results := _results(answer)) != self._before[token, question]:
            with self._lock:
                self.differing.append((token, question, results))

    def _write(self, number: int, due: float) -> None:
        phase = self.phase
        token = self._writers[number % len(self._writers)]
        doc_id, text = f"w{number % 50}", f"{number}: {self._turns[number % len(self._turns)]}"
        status, answer = asked(self.port, token, "memory/index", {"doc_id": doc_id, "text": text})
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
        body = {"query": question, "rerank": False, "decay_weight": 0, "top_k": TOP_K}
        return asked(self.port, token, "memory/query", body)


def begin_load(served: Served, reads: float, writes: float) -> Load:
    """Readers with something to remember, and writers, at `served`; every question asked once."""
    turns, questions = load_lines(None)
    names = [f"reader-{n}" for n in range(READERS)] + [f"writer-{n}" for n in range(WRITERS)]
    tokens = mint_tokens(served.var, names)
    readers, writers = tokens[:READERS], tokens[READERS:]
    for number, token in enumerate(readers):
        documents = [{"doc_id": f"t{n}", "text": turns[number * TURNS + n]} for n in range(TURNS)]
        asked(served.port, token, "memory/index", {"documents": documents})
    load = Load(served.port, dict.fromkeys(readers, questions[:QUESTIONS]), writers, turns, reads, writes)
    load.look_first()
    return load


def _results(answer: dict[str, Any]) -> list[Any]:
    return [(each["chunk_id"], each["doc_id"], each["scores"], each["text"]) for each in answer["results"]]
