"""What each worker says it holds, and who is found to lack a key."""

from __future__ import annotations

import base64
import os

import pytest
from django.db import connections, transaction

from memory.keys.fingerprints import fingerprint
from memory.keys.master_keys import forget_parsed_keys
from memory.sealing.key_changes import connect_apart
from memory.sealing.worker_reports import (
    LIVE_SECONDS,
    Reporter,
    hold_reports,
    live_workers,
    workers_lacking_hmac,
    workers_lacking_master,
)

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])

OLD, NEW, OTHER = (os.urandom(32) for _ in range(3))


def hold(monkeypatch, **keys: bytes) -> None:
    """This process holds these master keys from now on, the first of them active."""
    for name in ("MEMORY_ENCRYPTION_KEY", "MEMORY_ENCRYPTION_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    texts = [f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in keys.items()]
    monkeypatch.setenv("MEMORY_ENCRYPTION_KEYS", ",".join(texts))
    monkeypatch.setenv("MEMORY_ENCRYPTION_ACTIVE_KEY", next(iter(keys)))
    forget_parsed_keys()


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
