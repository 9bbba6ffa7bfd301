"""One run of a command at a time in a database, whichever machine it is started on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections

MAINT = "maint"


class Busy(Exception):
    """Another run is under way."""

    def __init__(self):
        super().__init__(self.__doc__)


@contextmanager
def running_alone(lock: int) -> Iterator:
    """r1_maint's connection, holding the advisory lock; it is closed with the block, and the lock is gone with it.

    The server lets go of it when this process ends, however it ends. Raises Busy.
    """
    connection = connections[MAINT]
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [lock])
            if not cursor.fetchone()[0]:
                raise Busy()
        yield connection
    finally:
        connection.close()
