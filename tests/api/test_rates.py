"""Rate limits: who is held to which, what a refusal says, and what happens when nobody can count."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from django.test import Client

from memory.admission.rate import Rate
from memory.errors import RateLimited
from memory.rls import bind_tenant, tenant_transaction
from memory.services import rate_limits

pytestmark = pytest.mark.django_db(transaction=True)

SENTENCE = "The night train to the coast has a dining car."
NEVER_REFILLS = 3600


def rate(limit: int, period_seconds: int = NEVER_REFILLS) -> Rate:
    return Rate(limit, period_seconds)


def statuses(calls) -> list[int]:
    return [call().status_code for call in calls]


def charged(person, bucket: str = rate_limits.QUERY) -> bool:
    try:
        with bind_tenant(person.user_hash):
            rate_limits.charge(bucket)
    except RateLimited:
        return False
    return True


def age(superuser, person, seconds: float) -> None:
    """Make it so long ago that the user's buckets were touched; negative: the clock was set back since."""
    done = superuser.execute(
        "UPDATE memory_rate_buckets SET updated_at = updated_at - make_interval(secs => %s) WHERE user_hash = %s",
        [seconds, person.user_hash],
    )
    assert done.rowcount > 0


def test_past_its_limit_a_user_is_429_and_told_when_to_come_back(alice, settings):
    settings.MEMORY_RATE_QUERY = rate(2, 60)
    assert statuses([lambda: alice.query("train")] * 2) == [200, 200]
    refused = alice.query("train")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    # A token every 30 s, and the last was taken a moment ago.
    assert refused["Retry-After"] in ("29", "30")


def test_a_user_has_a_bucket_for_queries_one_for_indexing_and_one_for_the_rest_of_memory(alice, settings):
    settings.MEMORY_RATE_QUERY = settings.MEMORY_RATE_INDEX = settings.MEMORY_RATE_DEFAULT = rate(1)
    assert statuses([lambda: alice.index("a", SENTENCE)] * 2) == [201, 429]
    assert statuses([lambda: alice.query("train")] * 2) == [200, 429]
    assert statuses([lambda: alice.get("memory/documents/a")] * 2) == [200, 429]
    assert charged(alice, rate_limits.DEFAULT)


def test_nobody_pays_for_another_user(alice, bob, settings):
    settings.MEMORY_RATE_QUERY = rate(1)
    assert statuses([lambda: alice.query("train")] * 2) == [200, 429]
    assert bob.query("train").status_code == 200


def test_health_and_the_token_check_are_never_counted(alice, settings, superuser):
    settings.MEMORY_RATE_QUERY = settings.MEMORY_RATE_INDEX = settings.MEMORY_RATE_DEFAULT = rate(1)
    assert statuses([lambda: alice.get("auth/check"), lambda: alice.get("health/live")] * 3) == [204, 200] * 3
    buckets = "SELECT count(*) FROM memory_rate_buckets WHERE user_hash = %s"
    assert superuser.execute(buckets, [alice.user_hash]).fetchone() == (0,)
    assert alice.query("train").status_code == 200
    assert superuser.execute(buckets, [alice.user_hash]).fetchone() == (1,)


def test_the_limit_comes_before_scope_and_body(alice, settings):
    settings.MEMORY_RATE_INDEX = rate(1)
    read_only = alice.client(scope="memory:read")
    path = "/api/v1/memory/index"
    assert read_only.post(path, "not json", content_type="application/json").status_code == 403
    assert read_only.post(path, "not json", content_type="application/json").status_code == 429
    assert alice.post("memory/index", "not json").status_code == 429


def test_a_wrong_token_costs_its_user_nothing(alice, settings):
    settings.MEMORY_RATE_QUERY = rate(1)
    forged = Client(headers={"authorization": f"Bearer {alice.token()[:-4]}AAAA"})
    for _ in range(3):
        assert forged.post("/api/v1/memory/query", "{}", content_type="application/json").status_code == 401
    assert alice.query("train").status_code == 200


def test_a_bucket_refills_with_time_and_never_past_its_limit(alice, superuser, settings):
    settings.MEMORY_RATE_QUERY = rate(3, 3000)
    assert [charged(alice) for _ in range(4)] == [True, True, True, False]
    age(superuser, alice, 2000)
    assert [charged(alice) for _ in range(3)] == [True, True, False]
    age(superuser, alice, 1_000_000)
    assert [charged(alice) for _ in range(4)] == [True, True, True, False]


def test_refused_requests_do_not_put_off_the_next_token(alice, superuser, settings):
    settings.MEMORY_RATE_QUERY = rate(1, 1000)
    assert charged(alice)
    for _ in range(5):
        age(superuser, alice, 190)
        assert not charged(alice)
    age(superuser, alice, 60)
    assert charged(alice)


def test_a_clock_set_back_by_an_hour_locks_nobody_out(alice, superuser, settings):
    settings.MEMORY_RATE_QUERY = rate(2, 200)
    assert [charged(alice) for _ in range(2)] == [True, True]
    superuser.execute("UPDATE memory_rate_buckets SET tokens = 1 WHERE user_hash = %s", [alice.user_hash])
    age(superuser, alice, -3600)
    assert [charged(alice) for _ in range(2)] == [True, False]
    age(superuser, alice, 100)
    assert charged(alice)


def test_of_forty_requests_at_once_exactly_as_many_pass_as_there_are_tokens(alice, settings):
    settings.MEMORY_RATE_QUERY = rate(25)
    start = threading.Barrier(8, timeout=30)

    def five_times() -> list[bool]:
        try:
            start.wait()
            return [charged(alice) for _ in range(5)]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        passed = [each for future in [pool.submit(five_times) for _ in range(8)] for each in future.result(60)]
    assert (sum(passed), len(passed)) == (25, 40)


def test_a_decision_does_not_wait_for_the_users_own_writer(alice, settings):
    settings.MEMORY_RATE_QUERY = rate(5)
    assert alice.index("a", SENTENCE).status_code == 201

    def charge_elsewhere() -> bool:
        try:
            return charged(alice)
        finally:
            connections.close_all()

    with tenant_transaction(alice.user_hash, write=True) as tx, ThreadPoolExecutor(1) as pool:
        assert tx.state() is not None
        # Waiting for the writer's lock would end in lock_timeout, an error.
        assert pool.submit(charge_elsewhere).result(30)


def test_without_the_limiters_database_memory_answers_503(alice, settings):
    settings.MEMORY_RATE_QUERY = rate(5)
    pool = connections["default"].pool
    connections["default"].close()
    taken = [pool.getconn() for _ in range(pool.max_size)]
    try:
        refused = alice.query("train")
    finally:
        for connection in taken:
            pool.putconn(connection)
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused["Retry-After"] == "1"
    assert alice.query("train").status_code == 200


def index_chunks(person, chunks: int):
    """A call of as many documents, each a chunk; the same ids each time."""
    return person.post("memory/index", {"documents": [{"doc_id": f"d{n}", "text": "Calm."} for n in range(chunks)]})


def chunks_left(person) -> int:
    return person.get("memory/stats").json()["rates"]["chunks"]["remaining"]


def test_indexing_costs_a_token_a_chunk_and_past_them_it_is_429_and_stores_nothing(alice, bob, superuser, settings):
    settings.MEMORY_RATE_CHUNKS = rate(210, 210_000)
    assert index_chunks(alice, 198).status_code == 201
    assert chunks_left(alice) == 12
    assert alice.delete("memory/documents/d15").status_code == 204
    refused = index_chunks(alice, 16)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert alice.get("memory/documents/d15").status_code == 404
    # A token every 1,000 s, and four are missing.
    assert 3900 < int(refused["Retry-After"]) <= 4000
    assert index_chunks(bob, 16).status_code == 201
    assert index_chunks(alice, 11).status_code == 200
    age(superuser, alice, 15_000)
    assert index_chunks(alice, 16).status_code == 201


def test_a_call_of_more_chunks_than_the_whole_rate_passes_when_as_many_have_refilled(alice, superuser, settings):
    settings.MEMORY_RATE_CHUNKS = rate(10, 10_000)
    assert index_chunks(alice, 150).status_code == 201
    assert chunks_left(alice) == 50
    refused = index_chunks(alice, 60)
    assert refused.status_code == 429
    age(superuser, alice, int(refused["Retry-After"]) - 500)
    assert index_chunks(alice, 60).status_code == 429
    age(superuser, alice, 500)
    assert index_chunks(alice, 60).status_code == 200


def test_a_request_that_is_refused_before_its_chunks_are_counted_costs_none(alice, settings):
    settings.MEMORY_RATE_CHUNKS = rate(300)
    assert alice.index("a", " ").status_code == 422
    assert index_chunks(alice, 201).json()["code"] == "too_many_chunks"
    assert chunks_left(alice) == 300


def test_a_rate_that_is_off_counts_nothing(alice, settings, superuser):
    settings.MEMORY_RATE_QUERY = None
    assert statuses([lambda: alice.query("train")] * 3) == [200] * 3
    rows = superuser.execute("SELECT count(*) FROM memory_rate_buckets WHERE user_hash = %s", [alice.user_hash])
    assert rows.fetchone() == (0,)


def test_an_options_request_is_refused_and_no_allow_header_offers_it(alice):
    for path in ("memory/query", "auth/check", "memory/documents/a"):
        refused = alice.client().options(f"/api/v1/{path}")
        assert refused.status_code == 405
        assert "OPTIONS" not in refused["Allow"]
    assert alice.client().options("/api/v1/memory/query")["Allow"] == "POST"
