"""One live key a user, whatever happens at the same moment elsewhere; and no row that no key opens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg
import pytest
from django.conf import settings as django_settings
from django.db import connections
from prometheus_client import REGISTRY

from memory import rls
from memory.errors import KeyUnavailable, NotFound, StaleKeys
from memory.indexing.seal import DocumentDraft
from memory.keys.master_keys import master_keys
from memory.rls import TenantTransaction, bind_tenant, tenant_transaction
from memory.sealing import keyring
from memory.sealing.generations import add_generation
from memory.sealing.keyring import existing_profile, forget_profiles
from memory.sealing.profile import DATA_KEY_COLUMN, SEARCH_KEY_COLUMN, SealedKey, read_profile
from memory.sealing.user_keys import DataKey, Purpose, SearchKey
from memory.services import index as index_service
from memory.services.documents import get_document
from memory.services.index import index_document
from memory.services.query import MemoryQuery, query_memory
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.secrets import read_secret

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = "The heat pump in the cellar was serviced in March."
TABLES = ("memory_chunks", "memory_documents", "memory_data_keys", "memory_search_keys", "memory_tenants")


@pytest.fixture
def connect(cluster, transactional_db):
    """Opens superuser connections, standing for other processes that erase and rotate."""
    opened = []

    def open_one(**options) -> psycopg.Connection:
        password = read_secret(cluster.secrets_folder, "POSTGRES_PASSWORD")
        conninfo = cluster.conninfo(SUPERUSER, password, django_settings.DATABASES["default"]["NAME"])
        opened.append(psycopg.connect(conninfo, autocommit=True, **options))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def superuser(connect):
    return connect()


def in_threads(*calls: Callable[[], object]) -> list:
    """Run the calls at once, each with its own database connection; what they returned, in order."""

    def run(call):
        try:
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(run, call) for call in calls]]


def remember(person, doc_id: str = "heating", text: str = TEXT):
    with bind_tenant(person.user_hash):
        return index_document(person.user_id, DocumentDraft(doc_id, "api", text))


def read_back(person, doc_id: str = "heating") -> str:
    with bind_tenant(person.user_hash):
        return get_document(doc_id).text


def ask(person, question: str = "When was the heat pump serviced?"):
    with bind_tenant(person.user_hash):
        return query_memory(MemoryQuery(question))


def count(superuser, person, table: str) -> int:
    return superuser.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [person.user_hash]).fetchone()[0]


def erase(connection: psycopg.Connection, person) -> None:
    """The user, rows and keys, in one transaction that first waits for every writer.

    Nothing when there is no user: without a row to lock, a first write could commit between two of the deletes.
    """
    lock = "SELECT true FROM memory_tenants WHERE user_hash = %s FOR UPDATE"
    with connection.transaction():
        if connection.execute(lock, [person.user_hash]).fetchone() is None:
            return
        for table in TABLES:
            connection.execute(f"DELETE FROM {table} WHERE user_hash = %s", [person.user_hash])


def reseal(connection: psycopg.Connection, person) -> None:
    """Seal the same keys anew, as a rotation of the master key does: the profile is another one then."""
    tables = (("memory_data_keys", "generation", DATA_KEY_COLUMN), ("memory_search_keys", "space", SEARCH_KEY_COLUMN))
    with connection.transaction():
        for table, number_column, column in tables:
            rows = connection.execute(
                f"SELECT {number_column}, key_id, sealed_key FROM {table} WHERE user_hash = %s", [person.user_hash]
            ).fetchall()
            for number, key_id, blob in rows:
                key = SealedKey(key_id, blob).open(person.user_hash, column, number)
                sealed = SealedKey.of(key, person.user_hash, column, number)
                connection.execute(
                    f"UPDATE {table} SET sealed_key = %s, key_id = %s WHERE user_hash = %s AND {number_column} = %s",
                    [sealed.blob, sealed.key_id, person.user_hash, number],
                )
        connection.execute("UPDATE memory_tenants SET profile = %s WHERE user_hash = %s", [uuid4(), person.user_hash])


@dataclass(frozen=True)
class Stored:
    """What a user's row and his newest data key say."""

    profile: UUID
    generation: int
    seal_count: int
    key_id: str


def stored_state(connection, person) -> Stored:
    row = connection.execute(
        "SELECT t.profile, t.generation, t.seal_count, k.key_id FROM memory_tenants t"
        " JOIN memory_data_keys k USING (user_hash, generation) WHERE user_hash = %s",
        [person.user_hash],
    ).fetchone()
    return Stored(*row)


@pytest.fixture
def nobody_looks(monkeypatch):
    """This process does not hear of keys that change elsewhere: what it has cached stays."""
    monkeypatch.setattr(keyring._changes, "look", lambda connection: None)


# Two writers of a new user


def test_two_first_writes_of_a_new_user_agree_on_one_key(alice, superuser, monkeypatch):
    both_found_nobody = threading.Barrier(2, timeout=30)
    create_tenant = keyring.create_tenant

    def create_tenant_at_once(*args):
        both_found_nobody.wait()
        return create_tenant(*args)

    monkeypatch.setattr(keyring, "create_tenant", create_tenant_at_once)
    # As in two workers: in one of them the second writer waits for its turn.
    monkeypatch.setattr(rls, "writers_turn", lambda *_, **__: nullcontext())
    in_threads(lambda: remember(alice, "one", "First text."), lambda: remember(alice, "two", "Second text."))

    assert both_found_nobody.n_waiting == 0
    assert [count(superuser, alice, table) for table in TABLES] == [2, 2, 1, 1, 1]
    for _ in range(2):
        assert read_back(alice, "one") == "First text."
        assert read_back(alice, "two") == "Second text."
        forget_profiles()


def test_eight_first_writes_over_the_api_all_succeed_and_all_are_readable(alice, superuser):
    start = threading.Barrier(8, timeout=30)

    def write(number: int) -> int:
        start.wait()
        return alice.index(f"doc-{number}", f"Text number {number}.").status_code

    assert in_threads(*[lambda n=n: write(n) for n in range(8)]) == [201] * 8
    assert count(superuser, alice, "memory_data_keys") == 1
    assert [read_back(alice, f"doc-{n}") for n in range(8)] == [f"Text number {n}." for n in range(8)]


# Erased elsewhere


def test_a_write_with_an_erased_key_in_the_cache_lands_under_a_new_one(alice, superuser):
    remember(alice)
    old = existing_profile(alice.user_hash)
    erase(superuser, alice)
    assert existing_profile(alice.user_hash) is old, "the key must still be cached for this test to mean anything"

    assert alice.index("after", "Written after the erasure.").status_code == 201
    assert old.version != stored_state(superuser, alice).profile
    forget_profiles()
    assert read_back(alice, "after") == "Written after the erasure."
    assert alice.get("memory/documents/heating").status_code == 404
    assert [result.doc_id for result in ask(alice).results] == ["after"]


def test_an_erasure_between_sealing_and_storing_is_noticed_and_the_text_sealed_again(alice, superuser, monkeypatch):
    remember(alice)
    seal_document, sealed_under = index_service.seal_document, []

    def seal_then_be_erased(keys, *args):
        document = seal_document(keys, *args)
        sealed_under.append(keys)
        if len(sealed_under) == 1:
            erase(superuser, alice)
        return document

    monkeypatch.setattr(index_service, "seal_document", seal_then_be_erased)
    assert alice.index("after", "Written across the erasure.").status_code == 201
    assert len(sealed_under) == 2 and sealed_under[0] is not sealed_under[1]
    assert sealed_under[1].version == stored_state(superuser, alice).profile
    forget_profiles()
    assert read_back(alice, "after") == "Written across the erasure."


def test_a_key_that_is_gone_each_time_it_is_needed_fails_the_write_and_stores_nothing(alice, superuser, monkeypatch):
    remember(alice)
    seal_document = index_service.seal_document

    def seal_then_be_erased(keys, *args):
        document = seal_document(keys, *args)
        erase(superuser, alice)
        return document

    monkeypatch.setattr(index_service, "seal_document", seal_then_be_erased)
    response = alice.index("after", "Never stored.")
    assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert [count(superuser, alice, table) for table in TABLES] == [0, 0, 0, 0, 0]


def test_an_erasure_waits_for_a_writer_that_has_read_the_key(alice, connect):
    remember(alice)
    eraser = connect(options="-c lock_timeout=200")
    with bind_tenant(alice.user_hash):
        with tenant_transaction(write=True) as tx:
            assert tx.state() is not None
            with pytest.raises(psycopg.errors.LockNotAvailable):
                erase(eraser, alice)
        with tenant_transaction() as tx:  # a reader holds nobody up
            assert tx.state() is not None
            erase(eraser, alice)
    assert count(eraser, alice, "memory_tenants") == 0


def test_writers_and_an_eraser_at_full_speed_never_leave_a_row_that_no_key_opens(alice, connect):
    superuser, done = connect(), threading.Event()

    def write(worker: int) -> int:
        written = 0
        # As many as it takes: on a slow machine most of them meet an erasure on the way.
        for n in range(400):
            status = alice.index(f"doc-{worker}-{n % 4}", f"Text {worker} {n}.").status_code
            assert status in {200, 201, 503}
            written += status < 300
            if n >= 30 and written > 10:
                break
        return written

    def keep_erasing() -> int:
        rounds = 0
        while not done.is_set():
            rounds += count(superuser, alice, "memory_tenants")
            erase(superuser, alice)
            time.sleep(0.01)
        return rounds

    def write_then_stop() -> list[int]:
        try:
            return in_threads(lambda: write(1), lambda: write(2))
        finally:
            done.set()

    written, erasures = in_threads(write_then_stop, keep_erasing)
    assert sum(written) > 20 and erasures > 5

    assert alice.index("last", "The last text.").status_code == 201
    reader = connect()
    forget_profiles()
    survivors = [
        row[0] for row in reader.execute("SELECT doc_id FROM memory_documents WHERE user_hash = %s", [alice.user_hash])
    ]
    assert "last" in survivors
    for doc_id in survivors:
        assert read_back(alice, doc_id).startswith(("Text ", "The last text."))
    orphans = reader.execute(
        "SELECT count(*) FROM memory_chunks c WHERE user_hash = %s AND NOT EXISTS"
        " (SELECT FROM memory_documents d WHERE (d.user_hash, d.doc_id) = (c.user_hash, c.doc_id))",
        [alice.user_hash],
    ).fetchone()[0]
    assert orphans == 0


def test_an_erased_user_is_a_new_user_to_every_reader(alice, superuser):
    remember(alice)
    erase(superuser, alice)
    assert existing_profile(alice.user_hash) is not None  # cached
    assert ask(alice).results == []
    with pytest.raises(NotFound):
        read_back(alice)
    assert existing_profile(alice.user_hash) is None


# Replaced elsewhere


def test_a_key_sealed_anew_elsewhere_is_fetched_again_by_readers_and_writers(alice, superuser):
    remember(alice)
    for action in (lambda: ask(alice).results[0].text, lambda: read_back(alice)):
        old = existing_profile(alice.user_hash)
        reseal(superuser, alice)
        assert action() == TEXT
        assert existing_profile(alice.user_hash) is not old
    old = existing_profile(alice.user_hash)
    reseal(superuser, alice)
    remember(alice, "new", "Another text.")
    assert existing_profile(alice.user_hash) is not old
    assert (read_back(alice), read_back(alice, "new")) == (TEXT, "Another text.")


def test_a_key_replaced_at_every_look_is_an_error_to_try_again_and_never_a_wrong_answer(alice, superuser, monkeypatch):
    from memory.services import query as query_service

    remember(alice)
    blind = query_service.lexical_query

    def blind_while_somebody_reseals(*args):
        reseal(superuser, alice)
        return blind(*args)

    monkeypatch.setattr(query_service, "lexical_query", blind_while_somebody_reseals)
    with pytest.raises(StaleKeys):
        ask(alice)
    response = alice.query("When was the heat pump serviced?")
    assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")


def rotate_data_key(connection: psycopg.Connection, person) -> None:
    """A second generation as another process adds it, in the caller's transaction; waits for every writer first."""
    tx = TenantTransaction(connection, person.user_hash, write=True)
    tx.ask_state()
    add_generation(tx, read_profile(tx))


def test_a_write_with_an_old_generation_in_the_cache_lands_under_the_newest(alice, superuser, nobody_looks):
    remember(alice)
    old = existing_profile(alice.user_hash)
    with superuser.transaction():
        rotate_data_key(superuser, alice)
    assert existing_profile(alice.user_hash) is old and old.generation == 1
    assert alice.index("after", "Written after the rotation.").status_code == 201
    assert superuser.execute(
        "SELECT d.generation, c.generation FROM memory_documents d JOIN memory_chunks c USING (user_hash, doc_id)"
        " WHERE user_hash = %s AND doc_id = 'after'",
        [alice.user_hash],
    ).fetchall() == [(2, 2)]
    forget_profiles()
    assert read_back(alice, "after") == "Written after the rotation."


def test_a_write_that_waits_for_a_rotation_in_progress_lands_under_the_new_data_key(alice, connect, nobody_looks):
    remember(alice)
    rotator, observer = connect(), connect()

    def rotate_once_the_writer_waits() -> None:
        with rotator.transaction():
            rotate_data_key(rotator, alice)
            started.set()
            deadline = time.monotonic() + 1.2  # within the service's lock_timeout
            while not observer.execute(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid)))",
                [rotator.info.backend_pid],
            ).fetchone()[0]:
                assert time.monotonic() < deadline, "the writer never waited"
                time.sleep(0.005)

    def write():
        assert started.wait(30)
        return alice.index("after", "Written across the rotation.").status_code

    started = threading.Event()
    _, status = in_threads(rotate_once_the_writer_waits, write)
    assert status == 201
    forget_profiles()
    assert existing_profile(alice.user_hash).generation == 2
    assert read_back(alice, "after") == "Written across the rotation."


@pytest.mark.parametrize("state", ["moving", "moved", "erasing"])
def test_a_tenant_that_is_being_moved_or_erased_answers_nobody(alice, superuser, state):
    remember(alice)
    superuser.execute("UPDATE memory_tenants SET state = %s WHERE user_hash = %s", [state, alice.user_hash])
    for response in (alice.query("heat pump"), alice.index("new", TEXT), alice.get("memory/documents/heating")):
        assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    assert count(superuser, alice, "memory_documents") == 1


# The cache


def test_an_opened_key_is_kept_for_the_set_time_and_no_longer(alice, settings):
    remember(alice)
    settings.MEMORY_KEY_CACHE_SECONDS = 3600.0
    forget_profiles()
    first = existing_profile(alice.user_hash)
    assert existing_profile(alice.user_hash) is first
    settings.MEMORY_KEY_CACHE_SECONDS = 0.05
    forget_profiles()
    first = existing_profile(alice.user_hash)
    time.sleep(0.06)
    assert existing_profile(alice.user_hash) is not first
    settings.MEMORY_KEY_CACHE_SECONDS = 0.0
    forget_profiles()
    assert existing_profile(alice.user_hash) is not existing_profile(alice.user_hash)


def test_the_cache_keeps_the_users_seen_last_and_no_more_than_the_set_number(transactional_db, settings):
    from tests.people import Person

    people = [Person.new(f"user{n}") for n in range(4)]
    for person in people:
        remember(person)
    settings.MEMORY_KEY_CACHE_TENANTS = 3
    forget_profiles()
    first, second, third, fourth = (person.user_hash for person in people)
    kept = {user_hash: existing_profile(user_hash) for user_hash in (first, second, third)}
    assert existing_profile(first) is kept[first]  # now seen later than the second
    kept[fourth] = existing_profile(fourth)
    assert [existing_profile(user_hash) is kept[user_hash] for user_hash in (first, third, fourth)] == [True] * 3
    assert existing_profile(second) is not kept[second]
    assert len(keyring._cache) == 3


def test_forgetting_one_user_leaves_the_others(alice, bob):
    remember(alice)
    remember(bob)
    hers, his = existing_profile(alice.user_hash), existing_profile(bob.user_hash)
    forget_profiles(alice.user_hash)
    assert existing_profile(bob.user_hash) is his
    assert existing_profile(alice.user_hash) is not hers


def test_a_user_without_rows_has_no_key_and_gets_none_by_asking(stranger, superuser):
    assert existing_profile(stranger.user_hash) is None
    assert ask(stranger).results == []
    assert count(superuser, stranger, "memory_tenants") == 0


# The seal budget


def use_up(superuser, person, seals: int) -> None:
    superuser.execute("UPDATE memory_tenants SET seal_count = %s WHERE user_hash = %s", [seals, person.user_hash])


def test_a_key_that_has_sealed_2_to_the_32_times_seals_no_more_and_still_opens(alice, superuser):
    remember(alice)
    use_up(superuser, alice, 2**32)
    response = alice.index("new", "One too many.")
    assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    response = alice.index("heating", "One too many.")
    assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    assert count(superuser, alice, "memory_documents") == 1
    assert ask(alice).results[0].text == read_back(alice) == TEXT


def test_no_write_takes_a_key_past_its_last_seal(alice, superuser):
    remember(alice)
    # A document of one chunk takes four seals, and the answer under a key a fifth.
    use_up(superuser, alice, 2**32 - 3)
    assert alice.index("new", "One seal too many.").status_code == 503
    use_up(superuser, alice, 2**32 - 4)
    remembered = {"Idempotency-Key": "k"}
    body = {"doc_id": "new", "text": "One seal too many."}
    assert alice.post("memory/index", body, **remembered).status_code == 503
    assert count(superuser, alice, "memory_documents") == 1
    assert alice.index("new", "The last one.").status_code == 201
    assert stored_state(superuser, alice).seal_count == 2**32


def test_from_half_of_its_seals_on_a_key_is_counted_and_goes_on(alice, superuser):
    def warnings() -> float:
        return REGISTRY.get_sample_value("memory_keys_near_seal_limit_total")

    remember(alice)
    use_up(superuser, alice, 2**31 - 4)
    before = warnings()
    remember(alice, "new", "Below half.")
    assert warnings() == before
    remember(alice, "newer", "Past half.")
    assert warnings() == before + 1


def test_every_seal_is_counted(alice, superuser):
    remember(alice)
    assert stored_state(superuser, alice).seal_count == 1 + 1 + 3  # user id; document; text, metadata, vector
    remember(alice)
    assert stored_state(superuser, alice).seal_count == 1 + 2 * (1 + 3)


# Master keys


def test_a_data_key_sealed_under_the_old_master_key_opens_and_a_new_user_gets_the_new_one(
    alice, bob, superuser, monkeypatch
):
    remember(alice)
    assert stored_state(superuser, alice).key_id == "k1"
    old, new = (base64.b64encode(key).decode() for key in (master_keys().active, os.urandom(32)))
    for name in ("MEMORY_ENCRYPTION_KEY", "MEMORY_ENCRYPTION_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEMORY_ENCRYPTION_KEYS", f"k1:{old},k2:{new}")
    monkeypatch.setenv("MEMORY_ENCRYPTION_ACTIVE_KEY", "k2")
    forget_profiles()

    assert read_back(alice) == TEXT
    remember(alice, "more", "Written after the promotion.")
    remember(bob)
    assert stored_state(superuser, alice).key_id == "k1"
    assert stored_state(superuser, bob).key_id == "k2"
    reseal(superuser, alice)
    assert stored_state(superuser, alice).key_id == "k2"
    assert read_back(alice, "more") == "Written after the promotion."

    # With the old key gone, everything that was sealed anew still opens.
    monkeypatch.setenv("MEMORY_ENCRYPTION_KEYS", f"k2:{new}")
    forget_profiles()
    assert read_back(alice) == read_back(bob) == TEXT


def test_a_master_key_that_is_gone_makes_the_key_unavailable(alice, monkeypatch):
    remember(alice)
    for name in ("MEMORY_ENCRYPTION_KEY", "MEMORY_ENCRYPTION_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEMORY_ENCRYPTION_KEYS", f"k2:{base64.b64encode(os.urandom(32)).decode()}")
    monkeypatch.setenv("MEMORY_ENCRYPTION_ACTIVE_KEY", "k2")
    forget_profiles()
    with pytest.raises(KeyUnavailable):
        read_back(alice)


# Sub-keys

KEY = bytes(range(32))
# HKDF-SHA256(KEY, no salt, "r1-memory/1/<purpose>"). Everything stored depends on these.
FROZEN_SUBKEYS = {
    "text": "4397b970e04af90bbe0fd4188611fd975c7e648c85f1b9117c1f3de3508c9d87",
    "meta": "015f012783e0eac1bcfb3975b9217df3045aadce599e217d70bcd04653d9f75f",
    "embedding": "8c2f77e76bcafa7a4438bd4c8c40a9c3b5667e422e745bb2009474ab14f9efc0",
    "content-mac": "520b472871957850ee7f0f165fa8b58948cec47060c737f8ce6c2a2eb1605be1",
    "idempotency": "f96203de11a49dd46c2389d775c6985b17b7b8bb1826084b4314cb8d5a115751",
    "rotation": "379cb9ad88e8a653c3e7df0e811ce5c8d7ec66dc0e749ec0f170c3bb1ef985f8",
    "words": "c32376e6b67dd4c58252d6582399d291335ae43da63bc5c3c572d86a858bf528",
    "speakers": "50c98ce6fbde7318529210086782b87f14c3065d6d6f0e01759cf81bd4d3a12c",
}


def hkdf_sha256(key: bytes, info: bytes) -> bytes:
    """RFC 5869 for 32 bytes and no salt, in two lines of its own."""
    extracted = hmac.digest(bytes(32), key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\1", hashlib.sha256)


@pytest.mark.parametrize("purpose", Purpose)
def test_each_sub_key_is_frozen_and_is_what_rfc_5869_says(purpose):
    subkey = DataKey("a" * 64, 1, KEY).subkey(purpose)
    assert subkey.hex() == FROZEN_SUBKEYS[purpose.value]
    assert subkey == hkdf_sha256(KEY, f"r1-memory/1/{purpose.value}".encode())


def test_sub_keys_differ_by_purpose_and_by_key_and_are_never_the_key():
    subkeys = {DataKey("a" * 64, 1, key).subkey(purpose) for key in (KEY, bytes(32)) for purpose in Purpose}
    assert len(subkeys) == 2 * len(Purpose)
    assert not subkeys & {KEY, bytes(32)}


@pytest.mark.parametrize("kind", [DataKey, SearchKey])
def test_keys_do_not_show_in_a_repr(kind):
    key = kind("a" * 64, 1, KEY)
    for secret in (KEY, key.subkey(Purpose.TEXT)):
        assert secret.hex() not in repr(key) and repr(secret) not in repr(key)


def test_a_profile_shows_no_key_that_it_holds(alice):
    remember(alice)
    profile = existing_profile(alice.user_hash)
    for key in (profile.newest, profile.search_key):
        assert key._key.hex() not in repr(profile) and repr(key._key) not in repr(profile)
