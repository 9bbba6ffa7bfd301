"""The frame of the service's management commands: what each says, to whom, and how it ends.

Progress goes to stderr; to stdout one JSON document, by `conclude`. (`erasures` prints JSON Lines, `issue_token` a
token; `demo` and `rerank_bench` speak to a person.) The exit code is an Exit. Ctrl-C, SIGTERM and SIGHUP end a command
between two statements; a database that cannot be reached, gives up or is not migrated ends it too, with one sentence
and no traceback. Either way what was done is done, and the next run goes on.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, ProgrammingError

from memory.maintenance.advisory_lock import Busy, running_alone

# The SQLSTATEs of a table, column, function or schema that is not there: this code's migrations have not all run.
_NOT_MIGRATED = frozenset({"42P01", "42703", "42883", "3F000"})


class Exit(IntEnum):
    """How a command ends."""

    DONE = 0
    FINDINGS = 1  # it did what it should, and something is wrong; or the service failed
    USAGE = 2  # wrong arguments; nothing was done
    BUSY = 3  # another run of it is under way; nothing was done
    PARTIAL = 4  # not all of it was done: run it again


class ServiceCommand(BaseCommand):
    """One command. `lock` names the advisory lock that `handle` runs under where two runs at once would hurt."""

    lock: int | None = None
    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = []

    def execute(self, *args, **options):
        try:
            with _quiet_pool(), _interruptible(), nullcontext() if self.lock is None else running_alone(self.lock):
                return super().execute(*args, **options)
        except Busy:
            raise CommandError("another run of this command is under way", returncode=Exit.BUSY) from None
        except KeyboardInterrupt:
            raise CommandError("interrupted; run it again", returncode=Exit.PARTIAL) from None
        except (OperationalError, InterfaceError) as exc:
            raise CommandError(_sentence(exc), returncode=Exit.PARTIAL) from None
        except ProgrammingError as exc:
            if getattr(exc.__cause__ or exc, "sqlstate", None) not in _NOT_MIGRATED:
                raise
            sentence = "the database is not migrated: run `python manage.py migrate`, then this again"
            raise CommandError(sentence, returncode=Exit.PARTIAL) from None

    def conclude(self, summary: dict[str, Any], code: Exit = Exit.DONE, *, indent: int | None = None) -> None:
        """The command's last word: `summary` as one JSON document on stdout, and its exit code."""
        self.stdout.write(json.dumps(summary, indent=indent))
        if code:
            sys.exit(code)


def usage(sentence: str) -> CommandError:
    """What to raise for wrong arguments."""
    return CommandError(sentence, returncode=Exit.USAGE)


def failed(sentence: str) -> CommandError:
    """What to raise where the service cannot do it, and another run would not either."""
    return CommandError(sentence, returncode=Exit.FINDINGS)


def _sentence(exc: Exception) -> str:
    """What failed. Of a statement only the kind of error: the server's message may quote what somebody stored."""
    cause = exc.__cause__ or exc
    if getattr(cause, "sqlstate", None) is None:
        return f"the database cannot be reached: {str(cause).partition(chr(10))[0]}"
    return f"the database failed ({type(cause).__name__}); run it again"


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that it cleans up; in the main thread alone."""
    try:
        before = {number: signal.signal(number, signal.default_int_handler) for number in _ENDING}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _quiet_pool() -> Iterator[None]:
    """Without the connection pool's line for each of its attempts: how they ended is said once."""
    pool = logging.getLogger("psycopg.pool")
    before = pool.level
    pool.setLevel(logging.ERROR)
    try:
        yield
    finally:
        pool.setLevel(before)
