"""Whom a language model's server that hangs is not asked for: the one user whose calls hang, or everybody."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from reranker.breaker import Breaker

# After these a server is asked less: whoever waited for it got nothing. A refusal is an answer, and quick.
HANGS = frozenset({"timeout", "stalled", "unreachable"})
# Whose hangs are remembered: more users than one process serves while a server hangs.
USERS_MAX = 1024


class ServerBreaker:
    """A breaker for everybody, and one for each user who waited in vain (`reranker.breaker.Breaker`).

    A hang can be the server's fault, or that of the one user who loads it. So all of a user's hangs count against him,
    and for everybody only one that follows another user's: nobody's own load takes the model from the others.
    `clock` gives seconds; any thread may call.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._everybody = Breaker(clock)
        # The latest to hang last.
        self._users: OrderedDict[str, Breaker] = OrderedDict()
        self._last_to_hang: str | None = None

    def admit(self, user: str) -> Call | None:
        """The call that `user` may make now, and ends by its `end`; None where he is to leave the server alone."""
        with self._lock:
            asked = [self._everybody, self._users.get(user)]
        probes = []
        for breaker in filter(None, asked):
            if breaker.begin_probe():
                probes.append(breaker)
            elif breaker.state != "closed":
                for probe in probes:
                    probe.abandon_probe()
                return None
        return Call(self, user, probes)

    def seconds_until_probe(self) -> float | None:
        """Of everybody's: 0 when a probe is due, None when none is to come."""
        return self._everybody.seconds_until_probe()

    def record(self, user: str, *, hung: bool) -> None:
        """Note how a call of `user` ended that was no probe."""
        with self._lock:
            own = self._users.get(user)
            if hung:
                own = own or Breaker(self._clock)
                self._users[user] = own
                self._users.move_to_end(user)
                if len(self._users) > USERS_MAX:
                    self._users.popitem(last=False)
            counts_for_all = not hung or user != self._last_to_hang
            self._last_to_hang = user if hung else self._last_to_hang
        if own is not None:
            own.record(slow=hung)
        if counts_for_all:
            self._everybody.record(slow=hung)


class Call:
    """One admitted call. As a probe its first word decides, however long the rest takes.

    All others are refused until then, so who leaves before it must not put off the next one either.
    """

    def __init__(self, server: ServerBreaker, user: str, probes: list[Breaker]):
        self._server = server
        self._user = user
        self._undecided = probes

    def word(self) -> None:
        """The server has begun to answer."""
        self._decide(lambda probe: probe.end_probe(good=True))

    def end(self, reason: str | None) -> None:
        """It is over: "" for an answer, a LanguageModelError's reason, None where it was closed before either."""
        if reason is None:
            self._decide(Breaker.abandon_probe)
        elif self._undecided:
            self._decide(lambda probe: probe.end_probe(good=reason not in HANGS))
        else:
            self._server.record(self._user, hung=reason in HANGS)

    def _decide(self, end: Callable[[Breaker], None]) -> None:
        for probe in self._undecided:
            end(probe)
        self._undecided = []
