"""The traffic beside a canary's drill: users' queries and streams at a constant rate, and clients that behave badly."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

LIMIT_SECONDS = 30
THREADS, FLOODERS = 32, 6
QUESTIONS = (
    "When was the heat pump serviced?",
    "Who painted the gate?",
    "What was replaced in May?",
    "Which lamp broke?",
)
RUBBISH = (
    ("memory/query", b"{", True), ("memory/query", b'{"query": 7}', True), ("memory/query", b"{}", True),
    ("memory/query", b'{"query": "x"}', False), ("memory/nothing", b"{}", True), ("stream", b"[1]", True),
    ("memory/index", b'{"doc_id": "a", "text": "' + b"x " * 520_000 + b'"}', True),
    ("memory/documents/none", None, True),
)  # fmt: skip


def send(port: int, token: str, path: str, body: bytes | None) -> int:
    """The status of one request over a connection of its own, its answer read to the end; 0 without one."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)) as connection:
        try:
            connection.request("GET" if body is None else "POST", f"/api/v1/{path}", body, headers)
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return 0


class DrillTraffic:
    """Inside its block each kind of request leaves at its rate, whatever became of those before.

    `kinds`: by name (a second, the tokens that take turns, whether it is a stream). `is_rubbish` and `is_flood` are
    set and taken back while it runs; `statuses` counts answers by kind.
    """

    def __init__(self, port: int, kinds: dict[str, tuple[float, list[str], bool]], bad_token: str):
        self._port, self._kinds, self._bad_token = port, kinds, bad_token
        self.is_rubbish = self.is_flood = False
        self.statuses: Counter[tuple[str, int]] = Counter()
        self._ended = threading.Event()

    def __enter__(self) -> DrillTraffic:
        self._pool = ThreadPoolExecutor(THREADS)
        self._threads = [threading.Thread(target=self._open_loop, args=(kind,)) for kind in self._kinds]
        self._threads += [threading.Thread(target=self._misbehave, args=(n,)) for n in range(FLOODERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()

    def _open_loop(self, kind: str) -> None:
        rate, tokens, is_stream = self._kinds[kind]
        started, number = time.monotonic(), 0
        while not self._ended.wait(max(0.0, started + number / rate - time.monotonic())):
            question = QUESTIONS[number // len(tokens) % len(QUESTIONS)]
            path, body = ("stream", {"message": question}) if is_stream else ("memory/query", {"query": question})
            self._pool.submit(self._one, kind, tokens[number % len(tokens)], path, json.dumps(body).encode())
            number += 1

    def _misbehave(self, number: int) -> None:
        """Rubbish a few times a second, a flood as fast as it is answered."""
        dice = random.Random(number)
        while not self._ended.wait(0.01 if self.is_flood else 0.3):
            if self.is_rubbish:
                path, body, has_token = dice.choice(RUBBISH)
                self._one("rubbish", self._bad_token if has_token else "", path, body)
            elif self.is_flood:
                self._one("flood", self._bad_token, "memory/query", b'{"query": "When was it serviced?"}')

    def _one(self, kind: str, token: str, path: str, body: bytes | None) -> None:
        self.statuses[kind, send(self._port, token, path, body)] += 1
