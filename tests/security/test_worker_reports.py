"""What each worker says it holds, and who is found to lack a key."""

from __future__ import annotations

import base64
import os
import threading
import time

import pytest
from django.db import connections, transaction

from memory.errors import KeyUnavailable
from memory.keys.fingerprints import fingerprint
from memory.keys.secret_files import SettingError
from memory.sealing import promotion
from memory.sealing.apart import connect_apart
from memory.sealing.promotion import forget_promoted, require_promoted_key, wrapping_key
from memory.sealing.worker_reports import (
    LIVE_SECONDS,
    Reporter,
    hold_reports,
    live_workers,
    workers_lacking_hmac,
    workers_lacking_master,
)
from tests.security.master_keys import hold

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])

OLD, NEW, OTHER = (os.urandom(32) for _ in range(3))


@pytest.fixture
def workers(superuser):
    """Workers by name, each saying something when told to; all gone afterwards."""
    superuser.execute("DELETE FROM memory_workers")
    made: dict[str, Reporter] = {}
    with connect_apart() as connection:

        def say(name: str) -> Reporter:
            made.setdefault(name, Reporter()).say(connection)
            return made[name]

        yield say
    for reporter in made.values():
        reporter.end()


def lacking(key_id: str, key: bytes | None = None) -> int:
    return len(workers_lacking_master(connections["maint"], key_id, key and fingerprint(key)))


def test_a_worker_says_which_keys_it_holds_and_never_a_key(workers, monkeypatch, superuser):
    hold(monkeypatch, k1=OLD, k2=NEW)
    workers("one")
    [report] = live_workers(connections["maint"])
    assert report.master_keys == {"k1": fingerprint(OLD), "k2": fingerprint(NEW)}
    assert (report.pid, report.active_master_key, report.hmac_key_ids) == (os.getpid(), "k1", ("h1",))
    said = str(superuser.execute("SELECT w::text FROM memory_workers w").fetchall())
    for key in (OLD, NEW):
        assert key.hex() not in said and base64.b64encode(key).decode() not in said


def test_a_worker_without_the_key_is_found_until_it_says_that_it_has_it(workers, monkeypatch):
    hold(monkeypatch, k1=OLD)
    workers("slow")
    hold(monkeypatch, k1=OLD, k2=NEW)
    workers("quick")
    assert (lacking("k1"), lacking("k2")) == (0, 1)
    workers("slow")
    assert lacking("k2") == 0


def test_another_key_under_the_same_id_is_no_such_key(workers, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=OTHER)
    workers("mistyped")
    assert (lacking("k2"), lacking("k2", NEW), lacking("k2", OTHER)) == (0, 1, 0)


def test_a_worker_unseen_for_long_is_asked_no_more(workers, monkeypatch, superuser):
    hold(monkeypatch, k1=OLD)
    workers("dead")
    superuser.execute("UPDATE memory_workers SET seen_at = now() - make_interval(secs => %s)", [LIVE_SECONDS + 1])
    assert lacking("k2") == 0 and live_workers(connections["maint"]) == []
    workers("dead")
    assert lacking("k2") == 1


def test_a_worker_that_ends_says_so(workers):
    reporter = workers("one")
    assert len(live_workers(connections["maint"])) == 1
    reporter.end()
    assert live_workers(connections["maint"]) == []


def test_the_hmac_key_is_told_from_another_one(workers):
    workers("one")
    assert workers_lacking_hmac(connections["maint"], "h1") == []
    assert len(workers_lacking_hmac(connections["maint"], "h1", fingerprint(OTHER))) == 1
    assert len(workers_lacking_hmac(connections["maint"], "h2")) == 1


def test_nobody_says_anything_while_the_reports_are_held(workers):
    with transaction.atomic(using="maint"):
        hold_reports(connections["maint"])
        with connect_apart() as connection:
            connection.execute("SET lock_timeout = 50")
            with pytest.raises(Exception, match="lock timeout"):
                Reporter().say(connection)
    assert live_workers(connections["maint"]) == []


def test_a_worker_that_starts_during_a_promotion_sees_it_before_it_serves(workers, monkeypatch, superuser):
    """It says what it holds, waits for the promotion that did not ask it, and must then know of it."""
    hold(monkeypatch, k1=OLD)
    reporter = Reporter()

    def begin() -> None:
        reporter.begin()
        connections.close_all()

    starting = threading.Thread(target=begin)
    try:
        with transaction.atomic(using="maint"):
            hold_reports(connections["maint"])
            starting.start()
            waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'memory_workers'::regclass AND NOT granted)"
            deadline = time.monotonic() + 60
            while not superuser.execute(waits).fetchone()[0]:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with connections["maint"].cursor() as cursor:
                cursor.execute(
                    "INSERT INTO memory_master_keys (key_id, fingerprint, promoted_at) VALUES ('k2', %s, now())",
                    [fingerprint(NEW)],
                )
        starting.join(60)
        with pytest.raises(SettingError, match="k2 wraps users' keys"):
            require_promoted_key()
    finally:
        superuser.execute("DELETE FROM memory_master_keys")
        reporter.end()


@pytest.fixture
def promoted(superuser, monkeypatch):
    """k2 is promoted, and this process, which would wrap under k1 by its settings, has not read it yet."""
    superuser.execute(
        "INSERT INTO memory_master_keys (key_id, fingerprint, promoted_at) VALUES ('k2', %s, now())", [fingerprint(NEW)]
    )
    hold(monkeypatch, k1=OLD, k2=NEW)
    yield
    superuser.execute("DELETE FROM memory_master_keys")
    forget_promoted()


def wrapped_by() -> str | None:
    try:
        return wrapping_key()[0]
    except KeyUnavailable:
        return None


def test_nothing_is_wrapped_until_it_is_known_which_key_is_promoted(promoted, superuser):
    with superuser.transaction():
        superuser.execute("LOCK TABLE memory_master_keys IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(KeyUnavailable):
            wrapping_key()
        require_promoted_key()
    forget_promoted()
    assert wrapped_by() == "k2"
    with superuser.transaction():
        superuser.execute("LOCK TABLE memory_master_keys IN ACCESS EXCLUSIVE MODE")
        promotion._next_read = 0.0
        assert wrapped_by() == "k2", "what was read once stands"


def test_who_asks_while_another_one_reads_for_the_first_time_does_not_wrap_by_the_settings(promoted, superuser):
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(wrapped_by())) for _ in range(3)]
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'memory_master_keys'::regclass AND NOT granted)"
    with superuser.transaction():
        superuser.execute("LOCK TABLE memory_master_keys IN ACCESS EXCLUSIVE MODE")
        threads[0].start()
        deadline = time.monotonic() + 60
        while not superuser.execute(waits).fetchone()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for thread in threads[1:]:
            thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(60)
    # None: the lock was held for longer than the service waits for one.
    assert len(found) == 3 and set(found) <= {"k2", None}
