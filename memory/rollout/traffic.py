"""The share of users who get the new variant, moved: the flag, the run's row and the proxy's file, and each noted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import DatabaseError, InterfaceError, connections, transaction

from memory.rollout import rollouts
from memory.rollout.flags import read_flags, set_flag
from memory.rollout.proxy import NoSplit, set_proxy_percent
from memory.rollout.record import Record
from memory.rollout.rollouts import MAINT, Rollout, Verdict

FLAG = "MEMORY_CANARY_PCT"
ACTOR = "canary"
# A database that is away comes back or it does not: this long a rollback tries.
PATIENCE_SECONDS = 60.0
AGAIN_SECONDS = 1.0


class Traffic:
    """`sleep` waits some seconds; `say` tells the operator."""

    def __init__(
        self, rollout: Rollout, record: Record, proxy_config: str, sleep: Callable[[float], None],
        say: Callable[[str], object],
    ):  # fmt: skip
        self._rollout, self._record, self._sleep, self._say = rollout, record, sleep, say
        self._proxy = Path(proxy_config) if proxy_config else None
        self.percent: int | None = None

    def move(self, percent: int) -> None:
        """Give `percent` of users the new variant. Raises database errors, and then nothing of it is done."""
        before = read_flags()[FLAG]
        with transaction.atomic(using=MAINT):
            set_flag(FLAG, percent, actor=ACTOR)
            rollouts.set_percent(self._rollout.id, percent)
        self._moved(before, percent)

    def end(self, verdict: Verdict, reasons: list[str], percent: int) -> bool:
        """Move it and end the run, both or neither; tried until PATIENCE_SECONDS are over. Whether it was done.

        So a run that is killed here either goes on as it was or has ended; none raises traffic that was taken away.
        """
        if self._proxy is not None and percent == 0:
            self._move_proxy(0)  # needs no database
        waited = 0.0
        while True:
            try:
                before = self.percent
                with transaction.atomic(using=MAINT):
                    set_flag(FLAG, percent, actor=ACTOR)
                    rollouts.end(self._rollout.id, verdict, reasons, percent)
                self._moved(before, percent)
                return True
            except (DatabaseError, InterfaceError) as exc:
                # A connection that broke stays broken: the next attempt begins with another.
                with suppress(DatabaseError, InterfaceError):
                    connections[MAINT].close()
                if waited >= PATIENCE_SECONDS:
                    return False
                if not waited:
                    self._say(f"the flag cannot be written ({type(exc).__name__}); trying for {PATIENCE_SECONDS:.0f} s")
                self._sleep(AGAIN_SECONDS)
                waited += AGAIN_SECONDS

    def _moved(self, before: Any, percent: int) -> None:
        self.percent = percent
        if before != percent:
            self._record.changed_flag(FLAG, before, percent, ACTOR)
        self._move_proxy(percent)

    def _move_proxy(self, percent: int) -> None:
        if self._proxy is None:
            return
        try:
            diff = set_proxy_percent(self._proxy, percent)
        except NoSplit as exc:
            self._say(f"the proxy's file was not changed: {exc}")
            self._record.event("flag", name="proxy", value=percent, failed=str(exc))
            return
        if diff:
            self._record.changed_proxy(diff)
            self._say(f"the proxy's file has {percent} % now; nginx has to read it again")
