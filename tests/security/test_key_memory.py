"""Opened keys leave a process's memory by themselves: when their time is up, and soon after an erasure elsewhere."""

from __future__ import annotations

import gc
import hashlib
import subprocess
import sys
import time
import weakref
from pathlib import Path

import psycopg
import pytest

from memory.sealing import apart, key_changes, keyring
from memory.sealing.key_cache import KeyCache
from memory.sealing.key_changes import KeyChanges, slot_of
from memory.sealing.keyring import existing_profile, forget_profiles
from memory.sealing.protection import protect
from memory.sealing.user_keys import Purpose
from tests.db.memories import remember, unit_vector
from tests.people import Person
from tests.security.generations import add, retire

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 60


def wait_until(is_so, *, but_no_longer_than_seconds: float = LIMIT_SECONDS) -> None:
    deadline = time.monotonic() + but_no_longer_than_seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def fingerprints(profile) -> set[str]:
    """Of the data key, of the search key and of each sub-key: what to look for without holding it."""
    keys = profile.newest, profile.search_key
    secrets = [secret for key in keys for secret in (key._key, *(key.subkey(purpose) for purpose in Purpose))]
    return {hashlib.sha256(secret).hexdigest() for secret in secrets}


def still_referred_to(wanted: set[str]) -> int:
    """How many references from any container of this process lead to 32 bytes that are one of those."""
    return sum(
        type(value) is bytes and len(value) == 32 and hashlib.sha256(value).hexdigest() in wanted
        for container in gc.get_objects()
        for value in gc.get_referents(container)
    )


def opened(person) -> tuple[weakref.ref, set[str]]:
    """The person's keys opened and used for every purpose: (a look at them that holds nothing, what to look for)."""
    forget_profiles()
    profile = existing_profile(person.user_hash)
    for purpose in Purpose:
        profile.newest.cipher(purpose)
    protect(profile.search_key, unit_vector())
    return weakref.ref(profile), fingerprints(profile)


# When the time is up


def test_a_key_whose_time_is_up_leaves_memory_though_nobody_asks_for_it(alice, settings):
    remember(alice, "a")
    settings.MEMORY_KEY_CACHE_SECONDS = 1.0
    keys, wanted = opened(alice)
    assert keys() is not None and still_referred_to(wanted) >= len(wanted)
    wait_until(lambda: keys() is None)
    assert still_referred_to(wanted) == 0


def test_each_key_goes_at_its_own_time_and_the_thread_ends_with_the_last():
    cache = KeyCache(lambda: 0.5, lambda: 10)
    cache.put("first", object())
    time.sleep(0.25)
    cache.put("second", object())
    sweeper = cache._sweeper
    wait_until(lambda: "first" not in cache._by_use)
    wait_until(lambda: len(cache) == 0)
    wait_until(lambda: not sweeper.is_alive())
    assert cache.put("third", object()) and cache._sweeper.is_alive()
    cache.forget()
    wait_until(lambda: cache._sweeper is None)


def test_with_no_lifetime_nothing_is_kept_at_all():
    cache = KeyCache(lambda: 0.0, lambda: 10)
    assert not cache.put("user", object())
    assert (len(cache), cache.get("user"), cache._sweeper) == (0, None, None)


# After an erasure elsewhere

_HOLDER = """
import sys
import django
django.setup()
import weakref
from memory.sealing.keyring import begin_key_watch, existing_profile
from tests.people import Person
from tests.security.test_key_memory import opened, still_referred_to, wait_until

begin_key_watch()
people = [Person(user_id) for user_id in sys.argv[1:]]
held, wanted = opened(people[0])
others = [weakref.ref(existing_profile(person.user_hash)) for person in people[1:]]
print("held", len(wanted), still_referred_to(wanted) >= len(wanted), flush=True)
# From here on this process asks for nothing: whatever happens, its own threads do.
wait_until(lambda: held() is None)
print("gone", still_referred_to(wanted), sum(other() is not None for other in others), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Starts other processes over the same database, each with these people's keys opened."""
    started = []

    def hold(*people: Person) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, *(person.user_id for person in people)], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield hold
    for process in started:
        process.stdin.close()
        process.wait(30)


def in_other_slots(person: Person, count: int) -> list[Person]:
    people = (Person.new("other") for _ in range(1000))
    return [other for other in people if slot_of(other.user_hash) != slot_of(person.user_hash)][:count]


def test_an_erasure_over_one_process_takes_the_key_out_of_every_other(alice, holder):
    others = in_other_slots(alice, 3)
    for person in (alice, *others):
        remember(person, "a")
    workers = [holder(alice, *others) for _ in range(2)]
    assert [worker.stdout.readline() for worker in workers] == ["held 18 True\n"] * 2
    assert alice.post("memory/erase", {"confirm": alice.user_id}).status_code == 200
    assert [worker.stdout.readline() for worker in workers] == ["gone 0 3\n"] * 2


@pytest.mark.parametrize("change", ["added", "retired"])
def test_a_generation_added_or_retired_over_one_process_takes_the_old_profile_out_of_every_other(alice, holder, change):
    others = in_other_slots(alice, 3)
    for person in (alice, *others):
        remember(person, "a")
    if change == "retired":
        add(alice)
        remember(alice, "a")
    worker = holder(alice, *others)
    assert worker.stdout.readline() == "held 18 True\n"
    assert add(alice) == 2 if change == "added" else retire(alice, 1)
    assert worker.stdout.readline() == "gone 0 3\n"


def test_an_erasure_that_is_rolled_back_takes_nothing_away(alice, superuser):
    remember(alice, "a")
    count = "SELECT coalesce(max(changes), 0) FROM memory_key_changes WHERE slot = %s"
    before = superuser.execute(count, [slot_of(alice.user_hash)]).fetchone()
    with pytest.raises(psycopg.errors.DivisionByZero), superuser.transaction():
        superuser.execute(key_changes._NOTE, [slot_of(alice.user_hash)])
        superuser.execute("SELECT 1 / 0")
    assert superuser.execute(count, [slot_of(alice.user_hash)]).fetchone() == before
    alice.post("memory/erase", {"confirm": alice.user_id})
    assert superuser.execute(count, [slot_of(alice.user_hash)]).fetchone() == (before[0] + 1,)


def watched_cache(superuser) -> tuple[KeyCache, KeyChanges]:
    cache = KeyCache(lambda: 60.0, lambda: 1000)
    changes = KeyChanges(cache)
    changes.look(superuser)
    return cache, changes


def test_a_key_read_before_the_erasure_and_cached_after_it_was_seen_is_forgotten_too(alice, superuser, monkeypatch):
    monkeypatch.setattr(key_changes, "LATE_KEYS_SECONDS", 0.2)
    cache, changes = watched_cache(superuser)
    superuser.execute(key_changes._NOTE, [slot_of(alice.user_hash)])
    changes.look(superuser)
    cache.put(alice.user_hash, "a late key")
    changes.look(superuser)
    assert cache.get(alice.user_hash) is None
    time.sleep(0.2)
    changes.look(superuser)
    cache.put(alice.user_hash, "a new key")
    changes.look(superuser)
    assert cache.get(alice.user_hash) == "a new key"


def test_what_was_erased_while_nothing_was_cached_is_noticed_at_the_next_look(alice, superuser):
    cache, changes = watched_cache(superuser)
    superuser.execute(key_changes._NOTE, [slot_of(alice.user_hash)])
    cache.put(alice.user_hash, "read before the erasure")
    changes.look(superuser)
    assert cache.get(alice.user_hash) is None


def test_a_process_that_never_looked_believes_none_of_its_keys(alice, superuser):
    cache = KeyCache(lambda: 60.0, lambda: 1000)
    cache.put(alice.user_hash, "read who knows when")
    KeyChanges(cache).look(superuser)
    assert len(cache) == 0


def test_without_the_database_keys_stay_for_their_own_time(alice, monkeypatch, caplog):
    attempts = []

    def refuse():
        attempts.append(time.monotonic())
        raise psycopg.OperationalError("the server is away")

    monkeypatch.setattr(apart, "connect_apart", refuse)
    monkeypatch.setattr(key_changes, "LOOK_SECONDS", 0.01)
    cache = KeyCache(lambda: 1.0, lambda: 10)
    changes = KeyChanges(cache)
    cache.put(alice.user_hash, "a key")
    changes.watch()
    watcher = changes._watcher
    wait_until(lambda: len(attempts) >= 3)
    assert cache.get(alice.user_hash) == "a key"
    wait_until(lambda: len(cache) == 0)
    wait_until(lambda: not watcher.is_alive())
    told = [record for record in caplog.records if record.name == "memory.sealing.key_changes"]
    assert [record.getMessage() for record in told] == ["erasures elsewhere cannot be noticed (OperationalError)"]


def test_nobody_looks_while_no_key_is_held(alice):
    remember(alice, "a")
    existing_profile(alice.user_hash)
    assert keyring._changes._watcher.is_alive()
    forget_profiles()
    wait_until(lambda: keyring._changes._watcher is None and keyring._cache._sweeper is None)
