"""An attack as one user makes it: so many callers in a closed loop, and what a service may answer them.

A caller that was refused comes back after a quarter of a second, sooner than it was told to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from deploy.bench.wire import CLOSED, HELD, Answer, Request, ask, drip, read_slowly

PAUSE_AFTER_REFUSAL_SECONDS = 0.25
STORE_LIMIT_SECONDS = 120
ORDINARY = Request("POST", "memory/query", {"query": "When was the heat pump serviced?"})
WHOLE, SLOWLY, DRIPPED = "read whole", "read slowly", "sent drop by drop"

Store = Callable[[Request], Answer]


def _nothing(store: Store) -> None:
    """An attack that needs nothing stored."""


@dataclass(frozen=True)
class Attack:
    """`callers` at once; caller `number` sends `request(number)` over and over. `prepare` stores what it is about.

    Attacks of one `user` share what the first of them stored. `served` are the statuses of a request that is not
    refused for its number or its time.
    """

    name: str
    callers: int
    request: Callable[[int], Request]
    served: tuple[int, ...]
    prepare: Callable[[Store], None] = _nothing
    user: str = ""
    how: str = WHOLE
    has_token: bool = True

    @property
    def attacker(self) -> str:
        """The user id whose token it takes."""
        return self.user or self.name

    def fault(self, answer: Answer) -> str | None:
        """What is wrong with this answer of the service; None where the attacker was served or told in order.

        Refusals for load are 429 and 503 `overloaded`, and say when to come back.
        """
        if answer.status in self.served:
            return None
        if answer.is_refusal and answer.code in ("too_many_requests_at_once", "overloaded"):
            return None if answer.retry_after else f"{answer} without Retry-After"
        # A body that does not come is cut off, with or without a word; until then it may wait for a while.
        if self.how == DRIPPED and answer.code in (CLOSED, HELD):
            return None
        return str(answer)


def run(attack: Attack, port: int, token: str, *, stop: threading.Event, patience_seconds: float) -> list[Answer]:
    """Attack until `stop` is set; every answer, in no order. A caller waits `patience_seconds` for each."""

    def once(request: Request) -> Answer:
        bearer = token if attack.has_token else None
        if attack.how == DRIPPED:
            return drip(port, request, bearer, stop=stop)
        if attack.how == SLOWLY:
            return read_slowly(port, request, bearer, stop=stop, timeout_seconds=patience_seconds)
        return ask(port, request, bearer, timeout_seconds=patience_seconds)

    def caller(number: int) -> list[Answer]:
        request = attack.request(number)
        answers = [once(request)]
        while not stop.wait(PAUSE_AFTER_REFUSAL_SECONDS if answers[-1].status >= 400 else 0):
            answers.append(once(request))
        return answers

    with ThreadPoolExecutor(attack.callers) as pool:
        return [answer for answers in pool.map(caller, range(attack.callers)) for answer in answers]


def store_for(attack: Attack, port: int, token: str) -> None:
    """Store what the attack is about. Raises AssertionError where the service does not take it."""
    attack.prepare(lambda request: ask(port, request, token, timeout_seconds=STORE_LIMIT_SECONDS))


def served_again(port: int, token: str, *, within_seconds: float) -> Answer:
    """The attacker's ordinary request, until it is answered 200 or `within_seconds` are over; the last answer."""
    deadline = time.monotonic() + within_seconds
    while True:
        answer = ask(port, ORDINARY, token, timeout_seconds=within_seconds)
        if answer.status == 200 or time.monotonic() > deadline:
            return answer
        time.sleep(PAUSE_AFTER_REFUSAL_SECONDS)


@contextmanager
def locked_tenant(superuser, user_hash: str) -> Iterator[None]:
    """Inside the block nobody else can lock, and so nobody can write for, this tenant."""
    with superuser.transaction():
        superuser.execute("SELECT FROM memory_tenants WHERE user_hash = %s FOR UPDATE", [user_hash])
        yield


def tenants(superuser) -> set[str]:
    """The user hashes that the service knows."""
    return {user_hash for (user_hash,) in superuser.execute("SELECT user_hash FROM memory_tenants")}
