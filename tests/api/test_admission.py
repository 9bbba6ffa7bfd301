"""Room for requests: whose share is used up, what is kept for health, and that nothing was read or asked before."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from django.db import connections

from memory import metrics
from memory.admission import concurrency, refusals
from memory.admission.refusals import AT_ONCE_MAX, LATE
from memory.admission.writers import writers_turn
from memory.api import parsers
from memory.embedding.process import get_embedder
from memory.errors import Overloaded, TooManyRequestsAtOnce
from memory.formats.strict_json import parse_json
from memory.rls import bound_tenant
from r1site.settings.env import Rate

pytestmark = pytest.mark.django_db(transaction=True)

SENTENCE = "The night train to the coast has a dining car."


@pytest.fixture
def small(settings):
    """A worker of 8 threads: 2 reserved, 3 requests a user."""
    settings.GUNICORN_THREADS = 8
    settings.MEMORY_RESERVED_THREADS = 2
    settings.MEMORY_USER_CONCURRENCY = 3


@pytest.fixture
def under_way():
    """`under_way(person, n)`: so many requests of theirs are being answered until the test ends."""
    with ExitStack() as stack:

        def take(person, number, budget=concurrency.requests):
            for _ in range(number):
                stack.callback(budget.take(person.user_hash).release)

        yield take
    assert concurrency.requests.taken == concurrency.streams.taken == concurrency.exports.taken == 0


def told(response):
    return response.status_code, response.json()["code"], response["Retry-After"]


@pytest.mark.usefixtures("small")
def test_over_their_share_a_user_is_429_and_nobody_else(alice, bob, under_way):
    under_way(alice, 3)
    for refused in (alice.query("train"), alice.index("a", SENTENCE), alice.get("memory/stats")):
        assert told(refused) == (429, "too_many_requests_at_once", "1")
    assert bob.query("train").status_code == 200


@pytest.mark.usefixtures("small")
def test_who_is_refused_over_and_over_is_told_so_late_and_nobody_else_is(alice, bob, under_way, monkeypatch):
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 7.0)
    under_way(alice, 3)
    under_way(bob, 3)
    waits = [LATE in alice.query("train").wsgi_request.META for _ in range(AT_ONCE_MAX + 2)]
    assert waits == [False] * AT_ONCE_MAX + [True] * 2
    assert LATE not in bob.query("train").wsgi_request.META
    monkeypatch.setattr(refusals.time, "monotonic", lambda: 8.0)
    assert LATE not in alice.query("train").wsgi_request.META, "a new second"


@pytest.mark.usefixtures("small")
def test_a_refused_request_was_neither_read_nor_charged(alice, under_way, superuser):
    under_way(alice, 3)
    assert alice.post("memory/index", "not json").status_code == 429
    buckets = "SELECT count(*) FROM memory_rate_buckets WHERE user_hash = %s"
    assert superuser.execute(buckets, [alice.user_hash]).fetchone() == (0,)


@pytest.mark.usefixtures("small")
def test_memory_as_a_whole_leaves_the_reserve_to_health_and_the_token_check(alice, bob, stranger, under_way):
    under_way(alice, 3)
    under_way(bob, 3)
    assert told(stranger.query("train")) == (503, "overloaded", "1")
    for path in ("auth/check", "health/live", "health/ready", "memory/nothing"):
        assert stranger.get(path).status_code in (200, 204, 404), path


@pytest.mark.usefixtures("small")
def test_streams_and_exports_count_against_the_worker_and_not_against_the_share(alice, bob, stranger, under_way):
    under_way(alice, 3, concurrency.streams)
    under_way(bob, 1, concurrency.exports)
    under_way(stranger, 1)
    assert alice.query("train").status_code == 200
    under_way(stranger, 1)
    assert told(alice.query("train")) == (503, "overloaded", "1")
    assert told(bob.post("stream", {"message": "train"})) == (503, "overloaded", "2")


@pytest.mark.parametrize("threads", [1, 2, 4, 8, 16, 22, 40])
def test_however_few_threads_a_worker_has_no_user_takes_them_all(settings, threads):
    settings.GUNICORN_THREADS, settings.MEMORY_RESERVED_THREADS = threads, max(1, threads // 10)
    settings.MEMORY_USER_CONCURRENCY, settings.MEMORY_STREAMS_MAX = max(4, threads // 10), 24
    greedy, other = "a" * 64, "b" * 64
    with ExitStack() as stack:
        for budget in (concurrency.streams, concurrency.exports):
            with suppress(Overloaded):
                while True:
                    stack.callback(budget.take(greedy).release)
        if concurrency.capacity() > 2:
            stack.callback(concurrency.requests.take(other).release)
    with ExitStack() as stack:
        with suppress(Overloaded, TooManyRequestsAtOnce):
            while True:
                stack.callback(concurrency.requests.take(greedy).release)
        if concurrency.capacity() > 1:
            stack.callback(concurrency.requests.take(other).release)


@pytest.mark.usefixtures("small")
def test_a_stream_searches_within_its_users_share_and_waits_for_it(alice, bob, under_way, settings):
    under_way(alice, 3)
    settings.MEMORY_QUERY_SECONDS = 0.3
    assert told(alice.post("stream", {"message": "train"})) == (503, "overloaded", "1")
    settings.MEMORY_QUERY_SECONDS = 60
    assert b"event: done" in b"".join(bob.post("stream", {"message": "train"}).streaming_content)


def test_no_connection_is_held_while_the_model_runs_whether_rates_are_on_or_off(alice, settings, monkeypatch):
    held = []
    embedder = get_embedder()
    for method in ("embed_query", "embed_passages"):
        real = getattr(embedder, method)

        def embed(*arguments, real=real, **named):
            held.append(connections["default"].connection)
            return real(*arguments, **named)

        monkeypatch.setattr(embedder, method, embed)
    for rate in (None, Rate(1000, 60)):
        settings.MEMORY_RATE_QUERY = settings.MEMORY_RATE_INDEX = settings.MEMORY_RATE_CHUNKS = rate
        settings.MEMORY_RATE_DEFAULT = rate
        assert alice.index("a", SENTENCE).status_code in (200, 201)
        assert alice.query("train").status_code == 200
        assert alice.post("memory/summarize", {"query": "train"}).status_code == 200
        b"".join(alice.post("stream", {"message": "train"}).streaming_content)
    assert len(held) >= 8 and set(held) == {None}


def test_a_full_pool_or_a_locked_row_is_counted_as_time_that_ran_out(alice, superuser, settings):
    assert alice.index("a", SENTENCE).status_code == 201
    settings.MEMORY_INDEX_SECONDS = 0.3
    counted = metrics.errors.labels("index", "timeout")._value
    before = counted.get()
    with superuser.transaction():
        superuser.execute("SELECT FROM memory_tenants WHERE user_hash = %s FOR UPDATE", [alice.user_hash])
        assert alice.index("a", "Other words.").status_code == 503
    assert counted.get() == before + 1


def test_however_a_request_ends_its_room_comes_back(alice, monkeypatch):
    alice.query("train")
    alice.post("memory/query", {"query": ""})
    alice.post("memory/query", "not json")
    alice.get("memory/documents/none")
    alice.get("memory/export").close()
    b"".join(alice.post("stream", {"message": "train"}).streaming_content)
    alice.post("stream", {"message": ""})
    alice.client(scope="memory:write").post("/api/v1/memory/query", {}, content_type="application/json")
    monkeypatch.setattr("memory.api.views.query.query_measured", lambda query: 1 / 0)
    assert alice.query("train").status_code == 500
    assert concurrency.requests.taken == concurrency.streams.taken == concurrency.exports.taken == 0


def test_no_budget_gives_more_than_it_has_to_many_at_once(settings):
    settings.GUNICORN_THREADS, settings.MEMORY_RESERVED_THREADS, settings.MEMORY_USER_CONCURRENCY = 12, 2, 4
    start = threading.Barrier(12, timeout=30)

    def several(user: str) -> list:
        start.wait()
        slots = []
        for _ in range(3):
            try:
                slots.append(concurrency.requests.take(user))
            except (Overloaded, TooManyRequestsAtOnce):
                break
        return slots

    users = [f"{number % 4:064x}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        slots = [(user, slot) for user, got in zip(users, pool.map(several, users), strict=True) for slot in got]
    assert len(slots) == 10
    assert max(sum(user == one for one, _ in slots) for user in users) <= 4
    for _, slot in slots:
        slot.release()
        slot.release()
    assert concurrency.requests.taken == 0


def test_past_its_deadline_a_request_is_503_and_touches_nothing(alice, settings):
    assert alice.index("a", SENTENCE).status_code == 201
    settings.MEMORY_INDEX_SECONDS = settings.MEMORY_QUERY_SECONDS = 1e-9
    assert told(alice.index("a", "Other words.")) == (503, "overloaded", "1")
    assert told(alice.query("train"))[:2] == (503, "overloaded")
    assert told(alice.delete("memory/documents/a"))[:2] == (503, "overloaded")
    settings.MEMORY_QUERY_SECONDS = 60
    assert alice.get("memory/documents/a").json()["text"] == SENTENCE


def test_a_locked_row_is_overloaded_within_the_requests_time_and_touches_no_other_tenant(
    alice, bob, superuser, settings
):
    assert alice.index("a", SENTENCE).status_code == 201
    settings.MEMORY_INDEX_SECONDS = 0.4
    with superuser.transaction():
        superuser.execute("SELECT FROM memory_tenants WHERE user_hash = %s FOR UPDATE", [alice.user_hash])
        assert told(alice.index("a", "Other words.")) == (503, "overloaded", "1")
        settings.MEMORY_INDEX_SECONDS = 60
        assert bob.index("a", SENTENCE).status_code == 201
    assert alice.get("memory/documents/a").json()["text"] == SENTENCE


def test_writers_of_one_user_wait_for_each_other_without_a_connection(alice, bob, settings):
    assert alice.index("a", SENTENCE).status_code == 201
    pool = connections["default"].pool
    writing, done = threading.Event(), threading.Event()

    def write():
        try:
            with writers_turn(alice.user_hash, before_waiting=lambda: None):
                writing.set()
                done.wait(30)
        finally:
            connections.close_all()

    def delete():
        try:
            return alice.delete("memory/documents/a").status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        threads.submit(write)
        assert writing.wait(30)
        waiting = [threads.submit(delete) for _ in range(2)]
        while concurrency.requests.taken < 2:
            time.sleep(0.01)
        # What they asked before (the rate is off) is over: nobody who waits holds a connection.
        assert bob.index("a", SENTENCE).status_code == 201
        stats = pool.get_stats()
        assert stats["pool_available"] == stats["pool_size"]
        done.set()
        assert sorted(one.result(30) for one in waiting) == [204, 404]


def test_large_bodies_are_parsed_one_at_a_time_and_small_ones_wait_for_none(alice, settings):
    large = {"query": "train", "filters": {"doc_ids": ["x" * 500 for _ in range(50)]}}
    settings.MEMORY_QUERY_SECONDS = 60
    assert len(json.dumps(large)) > parsers.LARGE_BODY_BYTES
    free = alice.post("memory/query", large).status_code
    with parsers._large.taking("somebody"):
        settings.MEMORY_QUERY_SECONDS = 0.3
        assert told(alice.post("memory/query", large)) == (503, "overloaded", "1")
        settings.MEMORY_QUERY_SECONDS = 60
        assert alice.query("train").status_code == 200
    assert alice.post("memory/query", large).status_code == free != 503


def test_one_users_large_bodies_do_not_all_go_before_anothers(alice, bob, settings, monkeypatch):
    """As many of his streams may wait as there are streams, which would be longer than a query lasts."""
    large = {"query": "train", "filters": {"doc_ids": ["x" * 200 for _ in range(90)]}}
    assert len(json.dumps(large)) > parsers.LARGE_BODY_BYTES
    settings.MEMORY_QUERY_SECONDS = 60
    free = alice.post("memory/query", large).status_code
    turns = parsers._large
    parsed: list[str] = []

    def parse(raw: bytes):
        parsed.append(bound_tenant())
        return parse_json(raw)

    monkeypatch.setattr(parsers, "parse_json", parse)
    with ThreadPoolExecutor(4) as threads:
        with turns.taking("somebody"):
            asked = []
            for number, user in enumerate((alice, alice, alice, bob), 1):
                asked.append(threads.submit(user.post, "memory/query", large))
                while sum(map(len, turns._waiting.values())) < number:
                    time.sleep(0.002)
        assert {one.result(30).status_code for one in asked} == {free}
    assert parsed == [bob.user_hash, *[alice.user_hash] * 3]
