"""One run of a command at a time in a database, whichever machine it is started on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.db import Error, connections

MAINT = "maint"


class Busy(Exception):
    """Another run is under way."""

    def __init__(self):
        super().__init__(self.__doc__)


@contextmanager
def running_alone(lock: int) -> Iterator:
    """r1_maint's connection, holding the advisory lock for the block; it is closed with it.

    Whoever comes when the block has ended finds it free. The server lets go of it when this process ends, however it
    ends. Raises Busy.
    """
    connection = connections[MAINT]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [lock])
            if not cursor.fetchone()[0]:
                raise Busy()
        try:
            yield connection
        finally:
            # A server ends a session some time after it was left, and with it its locks. One that is gone has none.
            with suppress(Error), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [lock])
    finally:
        connection.close()
