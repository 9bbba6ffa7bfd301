"""One run of a command at a time: the lock keeps others out for as long as its block lasts, and no longer."""

from contextlib import suppress

import pytest
from django.db import Error

from memory.maintenance.advisory_lock import Busy, running_alone
from tests.db.server import connect

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

LOCK = 4_711


def _works(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _fails(connection):
    raise OSError("as a file that cannot be written")


def _is_refused(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column")


@pytest.mark.parametrize("work", [_works, _fails, _is_refused])
def test_whoever_comes_when_the_block_has_ended_finds_the_lock_free(cluster, work):
    with connect("r1_maint") as other:
        for _ in range(20):
            with suppress(Error, OSError), running_alone(LOCK) as connection:
                work(connection)
            assert other.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone()[0]
            other.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def test_while_another_run_has_it_a_second_one_is_told_so(cluster):
    with connect("r1_maint") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        with pytest.raises(Busy), running_alone(LOCK):
            pytest.fail("two runs at once")
