"""The frame of the service's management commands: what each says, to whom, and how it ends.

Progress goes to stderr, by `progress`; to stdout one JSON document, by `conclude`. (`erasures` prints JSON Lines,
`issue_token` a token; `demo`, and `rerank_bench` without --json, speak to a person; `register_space --if-none` may have
nothing to say.) The exit code is an Exit. Ctrl-C, SIGTERM and SIGHUP end a command, which then says in that document
what it has done so far, with "interrupted": true. A database that cannot be reached, gives up, is not migrated or
denies a right ends it too, with one sentence and no traceback; where the work had begun, with that document and
"database_failed": true. Either way what was done is done, and the next run goes on.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from functools import cached_property, partial
from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, ProgrammingError
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.maintenance.advisory_lock import Busy, running_alone
from memory.maintenance.progress import Progress

# The SQLSTATEs of a table, column, function or schema that is not there: this code's migrations have not all run.
_NOT_MIGRATED = frozenset({"42P01", "42703", "42883", "3F000"})
# Of a right that the role has not, which is the operator's to mend like an outage. Any other statement that the server
# calls wrong is a mistake of this code, and shows where.
_NOT_ALLOWED = "42501"
NICENESS = 10
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Exit(IntEnum):
    """How a command ends."""

    DONE = 0
    FINDINGS = 1  # it did what it should, and something is wrong; or the service failed
    USAGE = 2  # wrong arguments; nothing was done
    BUSY = 3  # another run of it is under way; nothing was done
    PARTIAL = 4  # not all of it was done: run it again


class ServiceCommand(BaseCommand):
    """One command. `lock` is the advisory lock of one of which two runs at once would hurt.

    `is_summarized`: whether its stdout holds one JSON document, and nothing else. `stands_back`: whether it leaves the
    processors to the service beside it, which goes on while it works through everybody.
    """

    lock: int
    stands_back = False
    # Django's, for a command that is a process of its own.
    _called_from_command_line: bool
    is_summarized = True
    _so_far: Callable[[], dict[str, Any]] | None = None
    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = []

    def execute(self, *args, **options):
        if self.stands_back and self._called_from_command_line:
            # The scheduler gives it what nobody else wants. A caller in one's own process is somebody else.
            os.nice(max(0, NICENESS - os.nice(0)))
        try:
            with _quiet_pool(), _interruptible():
                return super().execute(*args, **options)
        except Busy:
            raise CommandError("another run of this command is under way", returncode=Exit.BUSY) from None
        except KeyboardInterrupt:
            raise self._interrupted() from None
        except Error as exc:
            if _came_of_an_interrupt(exc):
                raise self._interrupted() from None
            sqlstate = getattr(exc.__cause__ or exc, "sqlstate", None)
            if isinstance(exc, ProgrammingError) and sqlstate not in {*_NOT_MIGRATED, _NOT_ALLOWED}:
                raise
            if self._so_far and sqlstate not in _NOT_MIGRATED:
                self._say_so_far("database_failed")
            raise CommandError(_sentence(exc), returncode=Exit.PARTIAL) from None

    def _interrupted(self) -> CommandError:
        self._say_so_far("interrupted")
        return CommandError("interrupted; run it again", returncode=Exit.PARTIAL)

    def _say_so_far(self, ending: str) -> None:
        self.progress.end()
        if self.is_summarized:
            self.stdout.write(json.dumps({**(self._so_far() if self._so_far else {}), ending: True}))

    def alone(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """r1_maint's connection for a block that one run of this command is in at a time; a second run ends as BUSY."""
        return running_alone(self.lock)

    @cached_property
    def progress(self) -> Progress:
        """What to tell how far it is, while it works through many."""
        # Django's wrapper would end every piece with a line feed, and colour it as an error.
        return Progress(partial(self.stderr.write, style_func=str, ending=""), is_terminal=self.stderr.isatty())

    def work(self, so_far: Callable[[], dict[str, Any]]) -> None:
        """Called before the work begins: `so_far()` is the summary as it stands, for a run that is interrupted."""
        self._so_far = so_far

    def conclude(self, summary: dict[str, Any] | str, code: Exit = Exit.DONE, *, indent: int | None = None) -> None:
        """The command's last word on stdout, `summary` as one JSON document or a text as it is; and its exit code."""
        self.progress.end()
        self.stdout.write(summary if isinstance(summary, str) else json.dumps(summary, indent=indent))
        if code:
            sys.exit(code)


def usage(sentence: str) -> CommandError:
    """What to raise for wrong arguments."""
    return CommandError(sentence, returncode=Exit.USAGE)


def failed(sentence: str) -> CommandError:
    """What to raise where the service cannot do it, and another run would not either."""
    return CommandError(sentence, returncode=Exit.FINDINGS)


def actor_name() -> str:
    """Who runs a command, for the audit log: the operating system's user, as it is known here."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _came_of_an_interrupt(exc: BaseException | None) -> bool:
    """Whether an interrupt was under way when `exc` was raised: it breaks off a statement, and what cleans up fails."""
    while exc is not None:
        if isinstance(exc, KeyboardInterrupt):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _sentence(exc: Exception) -> str:
    """What failed. Of a statement only the kind of error: the server's message may quote what somebody stored."""
    cause = exc.__cause__ or exc
    sqlstate = getattr(cause, "sqlstate", None)
    if sqlstate in _NOT_MIGRATED:
        return "the database is not migrated: run `python manage.py migrate`, then this again"
    if sqlstate is None:
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
            # None: it was not set from Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


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
