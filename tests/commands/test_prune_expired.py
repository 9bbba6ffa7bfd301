"""manage.py prune_expired: what is of no more use goes, of every user, and nothing else."""

import io
import json

import pytest
from django.core.management import CommandError, call_command

from memory.admission.rate import Rate
from memory.maintenance import expiry
from memory.rls import bind_tenant
from memory.services import rate_limits

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])


def prune(*arguments: str) -> dict:
    out = io.StringIO()
    call_command("prune_expired", *arguments, stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def index_with_key(person, key: str):
    return person.post("memory/index", {"doc_id": key, "text": "The sea is calm."}, **{"idempotency-key": key})


def spend(person, bucket: str) -> None:
    with bind_tenant(person.user_hash):
        rate_limits.charge(bucket)


def rows(superuser, person, table: str) -> int:
    return superuser.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [person.user_hash]).fetchone()[0]


def test_expired_answers_of_everybody_go_and_the_others_stay(alice, bob, superuser):
    for person in (alice, bob):
        index_with_key(person, "old")
        superuser.execute(
            "UPDATE memory_idempotency SET created_at = now() - interval '24 hours' WHERE user_hash = %s",
            [person.user_hash],
        )
    superuser.execute(
        "UPDATE memory_idempotency SET created_at = now() - interval '23 hours' WHERE user_hash = %s", [bob.user_hash]
    )
    assert prune("--dry-run")["answers"] >= 1
    assert rows(superuser, alice, "memory_idempotency") == 1
    assert prune()["answers"] >= 1
    assert [rows(superuser, person, "memory_idempotency") for person in (alice, bob)] == [0, 1]
    assert prune()["answers"] == 0


def test_a_bucket_goes_when_it_is_full_again_and_not_before(alice, superuser, settings):
    settings.MEMORY_RATE_QUERY = settings.MEMORY_RATE_INDEX = settings.MEMORY_RATE_DEFAULT = Rate(10, 1000)
    for bucket in (rate_limits.QUERY, rate_limits.INDEX, rate_limits.MEMORY, rate_limits.DEFAULT):
        spend(alice, bucket)
    spend(alice, rate_limits.QUERY)
    superuser.execute(
        "UPDATE memory_rate_buckets SET updated_at = updated_at - interval '101 seconds' WHERE user_hash = %s",
        [alice.user_hash],
    )
    assert prune("--dry-run")["buckets"] >= 3
    assert rows(superuser, alice, "memory_rate_buckets") == 4
    assert prune()["buckets"] >= 3
    assert rows(superuser, alice, "memory_rate_buckets") == 1


def test_a_bucket_of_a_rate_that_was_switched_off_goes_in_time(alice, superuser, settings):
    settings.MEMORY_RATE_QUERY = Rate(1, 3600)
    spend(alice, rate_limits.QUERY)
    settings.MEMORY_RATE_QUERY = None
    prune()
    assert rows(superuser, alice, "memory_rate_buckets") == 1
    superuser.execute(
        "UPDATE memory_rate_buckets SET updated_at = updated_at - interval '1 hour' WHERE user_hash = %s",
        [alice.user_hash],
    )
    prune()
    assert rows(superuser, alice, "memory_rate_buckets") == 0


def test_more_than_a_batch_goes_in_several(alice, superuser, monkeypatch):
    monkeypatch.setattr(expiry, "BATCH_ROWS", 2)
    for number in range(5):
        index_with_key(alice, str(number))
    superuser.execute(
        "UPDATE memory_idempotency SET created_at = now() - interval '2 days' WHERE user_hash = %s", [alice.user_hash]
    )
    assert prune()["answers"] >= 5
    assert rows(superuser, alice, "memory_idempotency") == 0


def test_a_second_run_at_the_same_time_is_refused_with_3(alice, superuser):
    superuser.execute("SELECT pg_advisory_lock(%s)", [expiry.ADVISORY_LOCK])
    with pytest.raises(CommandError) as refused:
        prune()
    assert refused.value.returncode == 3
    superuser.execute("SELECT pg_advisory_unlock(%s)", [expiry.ADVISORY_LOCK])
    assert set(prune("--dry-run")) == {
        "dry_run", "documents", "users_left", "answers", "buckets", "sessions", "keys_rewritten",
    }  # fmt: skip


def test_the_bucket_of_chunks_goes_when_the_costliest_call_would_pass_and_not_before(alice, superuser, settings):
    settings.MEMORY_RATE_CHUNKS = Rate(10, 1000)
    with bind_tenant(alice.user_hash):
        rate_limits.charge_chunks(200)
    for seconds, left in ((1100, 1), (19_000, 0)):
        superuser.execute(
            "UPDATE memory_rate_buckets SET updated_at = updated_at - make_interval(secs => %s) WHERE user_hash = %s",
            [seconds, alice.user_hash],
        )
        prune()
        assert rows(superuser, alice, "memory_rate_buckets") == left


def test_a_right_that_r1_maint_lacks_is_told_in_one_line_with_4_and_without_the_servers_words(superuser):
    superuser.execute("REVOKE SELECT ON memory_idempotency FROM r1_maint")
    try:
        with pytest.raises(CommandError) as failed:
            prune()
    finally:
        superuser.execute("GRANT SELECT ON memory_idempotency TO r1_maint")
    assert str(failed.value) == "the database failed (InsufficientPrivilege); run it again"
    assert failed.value.returncode == 4
