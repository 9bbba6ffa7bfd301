"""A burst of queries by several test users at once, so that a stage has requests to judge by."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from memory.rollout.calls import Unreachable, call

QUERIES = 100
USERS_MIN = 5
QUESTIONS = (
    "What did we decide last week?",
    "Who is responsible for the invoices?",
    "Which version is in use, and since when?",
    "What has changed since the last meeting?",
    "Where is the key kept?",
)


def burst(endpoint: str, tokens: Sequence[str], queries: int = QUERIES) -> list[dict[str, Any]]:
    """Ask `queries` questions, as many at once as there are users, each by the next user.

    Gives a line of the load log for each; status 0 where nobody answered. Users are numbers, from 1.
    """

    def ask(number: int) -> dict[str, Any]:
        user = number % len(tokens)
        at, began = time.time(), time.perf_counter()
        line: dict[str, Any] = {"at": at, "user": user + 1, "status": 0}
        try:
            answer = call(
                f"{endpoint}/api/v1/memory/query", method="POST", token=tokens[user],
                body={"query": QUESTIONS[number // len(tokens) % len(QUESTIONS)]},
            )  # fmt: skip
            line["status"] = answer.status
            if isinstance(document := answer.json(), dict) and isinstance(document.get("variant"), str):
                line["variant"] = document["variant"]
        except Unreachable:
            pass
        line["ms"] = round(1000 * (time.perf_counter() - began), 1)
        return line

    with ThreadPoolExecutor(len(tokens)) as threads:
        return list(threads.map(ask, range(queries)))


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """How many there were, by status and by variant."""
    statuses = Counter(str(line["status"]) for line in lines)
    variants = Counter(line["variant"] for line in lines if "variant" in line)
    return {"queries": len(lines), "statuses": dict(statuses), "variants": dict(variants)}
