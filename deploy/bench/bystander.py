"""Somebody who does nothing wrong while another user attacks, and the probe that decides whether the worker lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from deploy.bench.wire import Answer, Request, ask

HEALTH = Request("GET", "health/live")
QUESTIONS = (
    "When was the heat pump serviced?",
    "Which harbour does the boat lie in?",
    "How deep is the well?",
    "Who has book 7?",
)
DOCUMENTS = {
    "documents": [
        {"doc_id": "heating", "text": "The heat pump was serviced in March. Its filter is changed every six months."},
        {"doc_id": "boat", "text": "The boat lies in harbour 4. Its engine was overhauled in May."},
        {"doc_id": "garden", "text": "The pear tree was pruned in November. The well is 12 metres deep."},
        {"doc_id": "books", "text": "Book 7 was lent to Anna in July. Shelf 3 holds the atlases."},
    ]
}
# From one answer to the next question: a person is slower, a load generator would be part of the load.
QUERY_PAUSE_SECONDS, HEALTH_PAUSE_SECONDS = 0.05, 0.1


def remember(port: int, token: str, *, timeout_seconds: float = 60) -> None:
    """Store what the bystander asks about."""
    answer = ask(port, Request("POST", "memory/index", DOCUMENTS), token, timeout_seconds=timeout_seconds)
    assert answer.status in (200, 201), f"storing was answered {answer}"


class Bystander:
    """Asks one query after the other, and beside it the probe, each over a new connection, as long as the block.

    `timeout_seconds` is how long either waits for an answer; then it counts as one that did not come.
    """

    def __init__(self, port: int, token: str, *, timeout_seconds: float):
        self._port, self._token, self._timeout_seconds = port, token, timeout_seconds
        self._stop = threading.Event()
        self.queries: list[Answer] = []
        self.probes: list[Answer] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._query, self.queries, QUERY_PAUSE_SECONDS)),
            threading.Thread(target=self._repeat, args=(self._probe, self.probes, HEALTH_PAUSE_SECONDS)),
        ]

    def __enter__(self) -> Bystander:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: int) -> None:
        """Returns once so many more queries and probes have been answered, or the first of all was not."""
        queries, probes = len(self.queries) + answers, len(self.probes) + answers
        while (len(self.queries) < queries or len(self.probes) < probes) and not (self.errors or self.missed_probes):
            time.sleep(0.02)

    @property
    def errors(self) -> list[str]:
        """What the bystander was told in place of an answer."""
        return [str(answer) for answer in self.queries if answer.status != 200]

    @property
    def missed_probes(self) -> list[str]:
        return [str(probe) for probe in self.probes if probe.status != 200]

    def _repeat(self, once: Callable[[], Answer], answers: list[Answer], pause_seconds: float) -> None:
        # At least once, however short the block.
        while not answers or not self._stop.is_set():
            answers.append(once())
            time.sleep(pause_seconds)

    def _query(self) -> Answer:
        question = Request("POST", "memory/query", {"query": QUESTIONS[len(self.queries) % len(QUESTIONS)]})
        return ask(self._port, question, self._token, timeout_seconds=self._timeout_seconds)

    def _probe(self) -> Answer:
        return ask(self._port, HEALTH, None, timeout_seconds=self._timeout_seconds)
