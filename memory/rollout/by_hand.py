"""A canary run ended by a person: all of the traffic to the new variant, or none.

A run that a process is at work on is told by its row, and ends within seconds; one whose process died is ended here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from django.db import transaction

from memory.rollout import rollouts
from memory.rollout.flags import set_flag
from memory.rollout.rollouts import MAINT, Request, Rollout, Verdict
from memory.rollout.traffic import ACTOR, FLAG

_ENDS: dict[Request, tuple[Verdict, int]] = {"promote": ("promoted", 100), "abort": ("aborted", 0)}


def end_by_hand(
    request: Request, alone: AbstractContextManager[Any], busy: type[Exception], reason: str
) -> tuple[Rollout | None, bool]:
    """The run that was under way, if there was one, and whether a process at work on it was told; else it has ended
    here. The flag is moved in any case.

    `alone` is the lock that a process at work holds: entering it raises `busy`.
    """
    verdict, percent = _ENDS[request]
    latest = rollouts.latest_rollout()
    rollout = latest if latest is not None and latest.state == "running" else None
    if rollout is not None:
        rollouts.ask(rollout.id, request)
    try:
        with alone, transaction.atomic(using=MAINT):
            set_flag(FLAG, percent, actor=ACTOR)
            if rollout is not None:
                rollouts.end(rollout.id, verdict, [reason], percent)
    except busy:
        set_flag(FLAG, percent, actor=ACTOR)
        return rollout, True
    return rollout if rollout is None else rollouts.rollout_of(rollout.id), False
