"""What the service's management commands have in common: an outage is one line and an exit code, not a traceback."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, ProgrammingError

# What exit code 4 says: not all of it was done, so run it again.
UNFINISHED = 4
# The SQLSTATEs of a table, column, function or schema that is not there: this code's migrations have not all run.
_NOT_MIGRATED = frozenset({"42P01", "42703", "42883", "3F000"})


class ServiceCommand(BaseCommand):
    """A command that ends with one sentence and exit code 4 where the database cannot be reached, gives up or is not
    migrated."""

    def execute(self, *args, **options):
        try:
            with _quiet_pool():
                return super().execute(*args, **options)
        except (OperationalError, InterfaceError) as exc:
            raise CommandError(_sentence(exc), returncode=UNFINISHED) from None
        except ProgrammingError as exc:
            if getattr(exc.__cause__ or exc, "sqlstate", None) not in _NOT_MIGRATED:
                raise
            sentence = "the database is not migrated: run `python manage.py migrate`, then this again"
            raise CommandError(sentence, returncode=UNFINISHED) from None


def _sentence(exc: Exception) -> str:
    """What failed. Of a statement only the kind of error: the server's message may quote what somebody stored."""
    cause = exc.__cause__ or exc
    if getattr(cause, "sqlstate", None) is None:
        return f"the database cannot be reached: {str(cause).partition(chr(10))[0]}"
    return f"the database failed ({type(cause).__name__}); run it again"


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
