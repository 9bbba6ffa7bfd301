"""manage.py maintain_indexes: a big user's searches are in an index of his own, and what he finds stays the same."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test.utils import CaptureQueriesContext

from memory.embedding.spaces import default_space
from memory.embedding.vectors import half_vectors, unit_vectors
from memory.erasure.erase import erase_memory
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.isolation import audit
from memory.isolation.audit import require_safe_database
from memory.isolation.own_index import EF_SEARCH, FoundIndex, OwnIndex, own_index_of, read_own_indexes
from memory.lexical.bm25 import lexical_query
from memory.maintenance import index_builds
from memory.maintenance.index_builds import carried_out
from memory.maintenance.index_recall import recall_of
from memory.maintenance.own_indexes import ADVISORY_LOCK, Act, BigUser, Task, plan, planned
from memory.management.commands import maintain_indexes
from memory.migrations._sqlfile import SQL_FOLDER
from memory.retrieval import nearest, search
from memory.retrieval.candidate import Candidate
from memory.retrieval.filters import Filters
from memory.retrieval.plan import explain_candidates, foreign_row_findings
from memory.retrieval.search import Search
from memory.rls import bind_tenant, tenant_transaction, verify_rls_isolation
from memory.sealing.keyring import existing_profile, forget_profiles, under_profile
from memory.sealing.protection import protect
from memory.services.forget import delete_document
from tests.db.memories import DIMENSION
from tests.db.scratch import ScratchDatabase, scratch_database
from tests.people import Person

BIG, SMALL = 120, 40
WANTED = 24


@pytest.fixture(scope="module")
def scratch(django_db_setup, django_db_blocker) -> Iterator[ScratchDatabase]:
    """A database of its own, since the command looks at everybody."""
    with django_db_blocker.unblock(), scratch_database("indexes") as scratch:
        scratch.migrate()
        with scratch.as_alias("default", "maint", "owner", "backup"):
            yield scratch


@pytest.fixture(autouse=True)
def thresholds(scratch, settings, monkeypatch):
    """As low as a test can fill; and nobody outlives his test."""
    monkeypatch.setattr(nearest, "WORTH", 0.2)
    settings.MEMORY_OWN_INDEX_CHUNKS, settings.MEMORY_OWN_INDEX_DROP_CHUNKS = 100, 50
    yield
    with connections["maint"].cursor() as cursor:
        for table in ("memory_chunks", "memory_tenants"):
            cursor.execute(f"DELETE FROM {table}")
    maintain()
    forget_profiles()


@pytest.fixture
def superuser(scratch) -> Iterator[psycopg.Connection]:
    with scratch.connect() as connection:
        yield connection


@pytest.fixture
def alice(scratch) -> Person:
    return Person.new("alice")


@pytest.fixture
def bob(scratch) -> Person:
    return Person.new("bob")


def maintain(*arguments: str) -> dict:
    out = io.StringIO()
    try:
        call_command("maintain_indexes", *arguments, stdout=out, stderr=io.StringIO())
    except SystemExit as exc:
        assert exc.code in (1, 4)
    return json.loads(out.getvalue())


def vectors_of(count: int, seed: int = 1) -> np.ndarray:
    return unit_vectors(np.random.default_rng(seed).normal(size=(count, DIMENSION)), rows=count, dimension=DIMENSION)


def store(person: Person, doc_id: str, vectors: np.ndarray, source: str = "notes") -> None:
    """One document of as many passages as vectors."""
    passages = [Slice(f"word{n:04} ", 9 * n, 9 * n + 9) for n in range(len(vectors))]
    index_memory_batch(connections["default"], person.user_id, doc_id, source, passages, vectors)


def question(person: Person, seed: int = 7):
    return half_vectors(protect(existing_profile(person.user_hash).search_key, vectors_of(1, seed)))[0]


def found(person: Person, *, seed: int = 7, filters: Filters | None = None, words: str = "") -> list[Candidate]:
    """The candidates, in an index of the person's own where his row tells of one, as a query asks."""

    def ask(profile) -> list[Candidate]:
        lexical = lexical_query(profile.search_key, words, "english") if words else None
        vector = question(person, seed)
        with tenant_transaction(person.user_hash) as tx:
            asked = Search(
                tx, profile.space, vector, WANTED, filters or Filters(), lexical, has_own_index=profile.has_own_index
            )
            profile.verify(tx)
            return asked.candidates()

    return under_profile(person.user_hash, ask)


def explained(person: Person, filters: Filters | None = None) -> tuple[str | None, list[str]]:
    """(the index of his own that the search uses, what is wrong with its plan), by what `explain_ann` judges by."""
    with connections["owner"].cursor() as cursor:
        cursor.execute("ANALYZE memory_chunks, memory_tenants")
    explained_plan, owned = explain_candidates(person.user_hash, default_space(), question(person), WANTED, filters)
    findings = [
        *foreign_row_findings(explained_plan, person.user_hash, owned),
        *explained_plan.own_index_findings(person.user_hash),
    ]
    return explained_plan.summary()["own_index"], findings


def explain_ann(person: Person) -> dict:
    out = io.StringIO()
    call_command("explain_ann", "--user", person.user_id, stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def own_indexes() -> list[str]:
    return [index.name for index in read_own_indexes(connections["owner"])]


def name_of(person: Person) -> str:
    return OwnIndex(person.user_hash, default_space(), DIMENSION).name


def partition_of(person: Person) -> str:
    with connections["backup"].cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM memory_chunks WHERE user_hash = %s", [person.user_hash])
        return cursor.fetchone()[0]


# -- What a search finds


def test_a_big_users_search_is_in_an_index_of_his_own_and_finds_what_an_exact_one_does(alice, bob):
    store(alice, "a", vectors_of(BIG))
    store(bob, "a", vectors_of(SMALL))
    exact = {words: found(alice, words=words) for words in ("", "word0003 word0040")}
    assert explained(alice) == (None, [])
    done = maintain()
    assert (done["built"], done["indexes"], done["waiting"]) == (1, 1, 0)
    assert done["bytes"] > 0
    assert own_indexes() == [name_of(alice)]
    assert explained(alice) == (name_of(alice), [])
    assert explained(bob) == (None, [])
    said = explain_ann(alice)
    assert [said["own_index"], said["filtered"]["own_index"], said["findings"]] == [name_of(alice)] * 2 + [[]]
    assert {words: found(alice, words=words) for words in exact} == exact
    assert maintain()["built"] == 0


@pytest.mark.parametrize("words", ["", "word0003 word0040"])
@pytest.mark.parametrize(("mails", "asked", "is_in_index"), [
    (2, "notes", True),
    (60, "mail", True),
    # Too few for an index to be read on until they come by.
    (2, "mail", False),
    # As many as make it worth while, but fewer than are asked of it, so that it is all read: exact in the end.
    (30, "mail", True),
])  # fmt: skip
def test_under_a_filter_that_many_pass_the_search_is_in_his_index_and_under_others_exact(
    alice, mails, asked, is_in_index, words
):
    store(alice, "a", vectors_of(BIG))
    store(alice, "b", vectors_of(mails, seed=2), source="mail")
    filters = Filters(sources=(asked,))
    exact = found(alice, filters=filters, words=words)
    maintain()
    assert explained(alice, filters) == (name_of(alice) if is_in_index else None, [])
    assert found(alice, filters=filters, words=words) == exact
    assert {candidate.source for candidate in exact} == {asked}


@pytest.mark.parametrize("happens", ["nothing", "expired"])
def test_where_those_that_pass_a_filter_are_all_far_away_the_search_is_exact(alice, superuser, monkeypatch, happens):
    vectors = vectors_of(BIG + 60)
    nearest_first = vectors[np.argsort(-(vectors @ vectors_of(1, seed=7)[0]))]
    store(alice, "near", nearest_first[:BIG])
    store(alice, "far", nearest_first[BIG:], source="mail")
    filters = Filters(sources=("mail",))
    exact = found(alice, filters=filters)
    assert maintain()["built"] == 1
    if happens == "expired":
        superuser.execute("UPDATE memory_chunks SET expires_at = now() WHERE doc_id = 'near'")
    # It is read for 50 rows at most, and none of the nearest 120 passes.
    monkeypatch.setattr(nearest, "PATIENCE", 0.02)
    assert explained(alice, filters) == (name_of(alice), [])
    given = found(alice, filters=filters)
    assert given == exact
    assert len(given) == WANTED


def test_rows_that_expired_or_are_quarantined_make_room_for_others(alice, superuser):
    store(alice, "a", vectors_of(BIG))
    maintain()
    nearest = found(alice)
    for column in ("expires_at", "quarantined_at"):
        gone = [candidate.chunk_id for candidate in nearest[:20]]
        superuser.execute(f"UPDATE memory_chunks SET {column} = now() WHERE id = ANY(%s)", [gone])
        nearest = found(alice)
        assert len(nearest) == WANTED
        assert not {candidate.chunk_id for candidate in nearest} & set(gone)
    assert explained(alice) == (name_of(alice), [])


@pytest.mark.parametrize("happens", ["expired", "deleted"])
@pytest.mark.parametrize("words", ["", "word0003 word0040"])
def test_where_too_few_of_those_that_the_index_weighs_are_there_the_search_is_exact(
    alice, superuser, monkeypatch, happens, words
):
    store(alice, "a", vectors_of(BIG))
    maintain()
    assert explained(alice) == (name_of(alice), [])
    nearest = [candidate.chunk_id for candidate in found(alice)]
    gone = "DELETE FROM memory_chunks" if happens == "deleted" else "UPDATE memory_chunks SET expires_at = now()"
    superuser.execute(f"{gone} WHERE id = ANY(%s)", [nearest])
    monkeypatch.setattr(search, "USE_OWN_INDEX", search.USE_OWN_INDEX.replace(f"'{EF_SEARCH}'", "'10'"))
    given = found(alice, words=words)
    superuser.execute(
        "UPDATE memory_tenants SET indexed_space = NULL, indexed_seals = NULL, profile = gen_random_uuid()"
        " WHERE user_hash = %s",
        [alice.user_hash],
    )
    assert len(given) >= WANTED
    assert given == found(alice, words=words)


def test_equal_distances_go_by_document_and_place_in_an_index_too(alice):
    same = np.repeat(vectors_of(1), 10, axis=0)
    for doc_id in ("c", "a", "b"):
        store(alice, doc_id, same)
    store(alice, "other", vectors_of(BIG, seed=3))
    before = found(alice, seed=1)
    maintain()
    assert explained(alice)[0] is not None
    after = found(alice, seed=1)
    assert [(one.doc_id, one.chunk_index) for one in after] == [(one.doc_id, one.chunk_index) for one in before]
    assert [one.doc_id for one in after] == ["a"] * 10 + ["b"] * 10 + ["c"] * 4


def test_what_is_written_and_forgotten_afterwards_is_found_and_is_gone(alice):
    store(alice, "a", vectors_of(BIG))
    maintain()
    store(alice, "new", vectors_of(1, seed=7))
    assert found(alice)[0].doc_id == "new"
    assert explained(alice) == (name_of(alice), [])
    with bind_tenant(alice.user_hash):
        delete_document("new")
    assert {candidate.doc_id for candidate in found(alice)} == {"a"}


def test_a_row_that_tells_of_an_index_that_is_gone_costs_no_answer_and_is_put_right(alice, scratch):
    store(alice, "a", vectors_of(BIG))
    maintain()
    expected = found(alice)
    with scratch.connect("r1_owner") as owner:
        owner.execute(f"DROP INDEX {name_of(alice)}")
    assert found(alice) == expected
    assert explained(alice)[1] == [
        "the user's row tells of an index of his own, and there is none: run maintain_indexes"
    ]
    with pytest.raises(SystemExit):
        explain_ann(alice)
    done = maintain()
    assert (done["unsaid"], done["built"]) == (1, 1)
    assert explained(alice) == (name_of(alice), [])


def test_what_an_index_finds_is_measured_before_a_search_uses_it(alice, superuser):
    store(alice, "a", vectors_of(BIG))
    maintain()
    assert recall_of(alice.user_hash, default_space()) == 1.0
    # Rows that it does not hold.
    superuser.execute("SET allow_system_table_mods = on")
    is_ready = "UPDATE pg_index SET indisready = %s WHERE indexrelid = %s::regclass"
    superuser.execute(is_ready, [False, name_of(alice)])
    store(alice, "b", vectors_of(BIG, seed=2))
    superuser.execute(is_ready, [True, name_of(alice)])
    superuser.execute(
        "UPDATE memory_tenants SET indexed_space = NULL, indexed_seals = NULL, profile = gen_random_uuid()"
        " WHERE user_hash = %s",
        [alice.user_hash],
    )
    assert 0.2 < recall_of(alice.user_hash, default_space()) < 0.9
    done = maintain()
    assert (done["said"], done["inaccurate"], own_indexes()) == (0, 1, [])


def test_an_index_that_finds_too_little_is_not_used_and_not_tried_again_before_much_is_new(alice, monkeypatch):
    store(alice, "a", vectors_of(BIG))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(index_builds, "RECALL_MIN", 1.01)
        done = maintain()
    assert (done["built"], done["inaccurate"], done["indexes"], own_indexes()) == (0, 1, 0, [])
    assert explained(alice) == (None, [])
    assert [maintain()[what] for what in ("built", "unsaid", "dropped")] == [0, 0, 0]
    store(alice, "a", vectors_of(BIG, seed=2))
    store(alice, "b", vectors_of(10, seed=3))
    assert maintain()["built"] == 1
    assert explained(alice) == (name_of(alice), [])


# -- Who has one


def test_a_user_who_is_big_no_more_loses_it_and_one_in_between_keeps_it(alice):
    store(alice, "a", vectors_of(BIG - 60))
    store(alice, "b", vectors_of(60, seed=2))
    maintain()
    with bind_tenant(alice.user_hash):
        delete_document("b")
        assert maintain()["dropped"] == 0
        store(alice, "a", vectors_of(SMALL))
    done = maintain()
    assert (done["dropped"], done["indexes"], own_indexes()) == (1, 0, [])
    assert explained(alice) == (None, [])
    assert len(found(alice)) == WANTED


def test_an_erased_users_index_goes(alice):
    store(alice, "a", vectors_of(BIG))
    maintain()
    with bind_tenant(alice.user_hash):
        erase_memory()
    assert maintain()["dropped"] == 1
    assert own_indexes() == []


def test_an_index_is_built_anew_after_all_of_it_was_written_over_twice(alice):
    store(alice, "a", vectors_of(BIG))
    maintain()
    for _ in range(2):
        assert maintain()["rebuilt"] == 0
        store(alice, "a", vectors_of(BIG))
    store(alice, "a", vectors_of(BIG))
    assert [maintain()["rebuilt"] for _ in range(2)] == [1, 0]
    assert own_indexes() == [name_of(alice)]


def test_a_build_that_was_killed_is_cleared_away_and_done_again(alice, scratch):
    store(alice, "a", vectors_of(BIG))
    with scratch.connect("r1_app") as reader, scratch.connect("r1_owner") as owner:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT set_config('app.user_hash', %s, true)", [alice.user_hash])
        reader.execute("SELECT count(*) FROM memory_chunks").fetchone()
        # It waits for the reader's snapshot, as a build does that is killed later.
        owner.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            owner.execute(OwnIndex(alice.user_hash, default_space(), DIMENSION).statement(partition_of(alice)))
    assert own_indexes() == [name_of(alice)]
    done = maintain()
    assert (done["cleaned"], done["built"], done["indexes"]) == (1, 1, 1)
    assert explained(alice) == (name_of(alice), [])


def test_what_a_run_built_and_was_killed_before_it_could_say_is_said_by_the_next(alice, superuser):
    store(alice, "a", vectors_of(BIG))
    maintain()
    superuser.execute(
        "UPDATE memory_tenants SET indexed_space = NULL, indexed_seals = NULL, profile = gen_random_uuid()"
        " WHERE user_hash = %s",
        [alice.user_hash],
    )
    # As it is where a run was killed before that statement.
    superuser.execute(f"ALTER INDEX {name_of(alice)} ALTER COLUMN 1 SET STATISTICS -1")
    assert explained(alice) == (None, [])
    done = maintain()
    assert (done["said"], done["built"]) == (1, 0)
    kept = "SELECT attstattarget FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1"
    assert superuser.execute(kept, [name_of(alice)]).fetchone() == (0,)
    assert explained(alice) == (name_of(alice), [])


def test_a_dry_run_says_what_it_would_do_and_does_nothing(alice):
    store(alice, "a", vectors_of(BIG))
    assert maintain("--dry-run")["built"] == 1
    assert own_indexes() == []


def test_a_partition_has_no_more_than_it_may_and_its_biggest_users_have_them(settings):
    settings.MEMORY_OWN_INDEX_PER_PARTITION = 2
    users = [BigUser(f"{n:064x}", "active", 1, 0, 100 + n, None, None) for n in range(4)]
    wanted = planned(users, [], {user.user_hash: f"memory_chunks_p0{n // 3}" for n, user in enumerate(users)})
    assert [task.user_hash for task in wanted.tasks] == [users[n].user_hash for n in (3, 2, 1)]
    assert wanted.waiting == 1


@pytest.mark.parametrize(("chunks", "acts"), [(201, ["dropped", "built"]), (200, [])])
def test_who_waits_takes_the_place_of_one_of_less_than_half_his_size(settings, chunks, acts):
    settings.MEMORY_OWN_INDEX_PER_PARTITION = 1
    partition = "memory_chunks_p00"
    users = [BigUser("a" * 64, "active", 1, 300, 100, 1, 300), BigUser("b" * 64, "active", 1, 900, chunks, None, None)]
    own = OwnIndex(users[0].user_hash, 1, DIMENSION)
    wanted = planned(users, [FoundIndex(own.name, partition, own, True)], {user.user_hash: partition for user in users})
    assert [task.act for task in wanted.tasks] == acts
    assert wanted.waiting == 1


def test_where_fewer_may_stand_than_do_the_smallest_go(settings):
    settings.MEMORY_OWN_INDEX_PER_PARTITION = 1
    users = [BigUser(letter * 64, "active", 1, 300, chunks, 1, 300) for letter, chunks in (("a", 100), ("b", 101))]
    owns = [OwnIndex(user.user_hash, 1, DIMENSION) for user in users]
    wanted = planned(users, [FoundIndex(own.name, "memory_chunks_p00", own, True) for own in owns], {})
    assert [(task.act, task.user_hash) for task in wanted.tasks] == [("dropped", users[0].user_hash)]


def test_a_user_whose_row_is_locked_is_left_to_the_next_run_and_the_others_are_not(alice, bob, scratch):
    store(alice, "a", vectors_of(BIG + 10))
    store(bob, "a", vectors_of(BIG))
    with scratch.connect() as writer, writer.transaction():
        # No SELECT, whose snapshot a build would wait for.
        writer.execute("UPDATE memory_tenants SET updated_at = now() WHERE user_hash = %s", [alice.user_hash])
        done = maintain()
    assert (done["failed"], done["built"], sorted(own_indexes())) == (1, 1, sorted([name_of(alice), name_of(bob)]))
    done = maintain()
    assert (done["failed"], done["said"]) == (0, 1)
    assert explained(alice) == (name_of(alice), [])


def test_a_vector_of_another_dimension_is_quarantined_when_a_build_fails_by_it(alice, superuser):
    store(alice, "a", vectors_of(BIG))
    mine = "FROM memory_chunks WHERE user_hash = %s"
    superuser.execute(
        f"UPDATE memory_chunks SET embedding = '[1,2,3]' WHERE id = (SELECT id {mine} LIMIT 1)", [alice.user_hash]
    )
    assert maintain()["built"] == 1
    assert superuser.execute(
        f"SELECT count(*) {mine} AND quarantined_at IS NOT NULL", [alice.user_hash]
    ).fetchone() == (1,)
    assert explained(alice) == (name_of(alice), [])


def test_a_user_who_changed_since_the_plan_gets_no_index(alice):
    store(alice, "a", vectors_of(BIG))
    tasks = plan(connections["maint"]).tasks
    with bind_tenant(alice.user_hash):
        delete_document("a")
    assert [(task.act, ending) for task, ending in carried_out(tasks)] == [("built", "stale")]
    assert own_indexes() == []


def test_an_index_of_another_space_goes_and_the_one_in_use_is_told_of_as_before(alice):
    store(alice, "a", vectors_of(BIG))
    maintain()
    other = OwnIndex(alice.user_hash, default_space() + 1, DIMENSION)
    task = Task(Act.DROP, alice.user_hash, other.space, other.name, partition_of(alice))
    assert [ending for _, ending in carried_out([task])] == ["done"]
    assert explained(alice) == (name_of(alice), [])


def test_a_build_waits_as_long_as_it_must_whatever_the_role_has(alice, superuser):
    store(alice, "a", vectors_of(BIG))
    limits = ("statement_timeout", "lock_timeout")
    database = superuser.info.dbname
    for limit in limits:
        superuser.execute(f"ALTER ROLE r1_owner IN DATABASE {database} SET {limit} = '1h'")
    try:
        connections["owner"].close()
        working = carried_out(plan(connections["maint"]).tasks)
        next(working)
        with connections["owner"].cursor() as cursor:
            shown = [cursor.execute(f"SHOW {limit}").fetchone()[0] for limit in limits]
        list(working)
    finally:
        superuser.execute(f"ALTER ROLE r1_owner IN DATABASE {database} RESET ALL")
    assert shown == ["0", "0"]


def test_a_watch_goes_on_where_the_server_let_go_of_its_connection(alice, bob, superuser, monkeypatch):
    store(alice, "a", vectors_of(BIG))
    slept = []

    def sleep(seconds: int) -> bool:
        slept.append(seconds)
        if len(slept) == 1:
            store(bob, "a", vectors_of(BIG))
            superuser.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE usename = 'r1_maint' AND datname = current_database()"
            )
        return len(slept) < 3

    monkeypatch.setattr(maintain_indexes, "_slept", sleep)
    assert maintain("--watch", "5")["built"] == 2
    assert slept == [5, 5, 5]


@pytest.mark.parametrize("arguments", [["--watch", "0"], ["--watch", "5", "--dry-run"]])
def test_a_watch_that_cannot_be_is_a_usage_error(arguments):
    with pytest.raises(CommandError) as refused:
        maintain(*arguments)
    assert refused.value.returncode == 2


def test_a_second_run_at_once_is_busy(scratch):
    with scratch.connect("r1_maint") as other:
        other.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        with pytest.raises(CommandError) as refused:
            maintain()
    assert refused.value.returncode == 3


def test_the_migration_taken_back_drops_what_a_killed_rebuild_left_too(alice, scratch):
    store(alice, "a", vectors_of(BIG))
    maintain()
    own = OwnIndex(alice.user_hash, default_space(), DIMENSION)
    with scratch.connect("r1_owner") as owner:
        owner.execute(own.statement(partition_of(alice)).replace(own.name, f"{own.name}_ccnew"))
        with owner.transaction(force_rollback=True):
            owner.execute((SQL_FOLDER / "0017_own_indexes.down.sql").read_text())
            left = owner.execute("SELECT relname FROM pg_class WHERE relname ~ '^memory_own_'").fetchall()
    assert left == []


# -- The audit


def test_an_index_that_is_dropped_while_the_catalogue_is_read_is_none(alice):
    own = OwnIndex(alice.user_hash, 1, DIMENSION)
    assert own_index_of(own.name, "memory_chunks_p00", None, False) is None


def test_before_its_first_transaction_a_process_reads_no_index(alice, monkeypatch):
    monkeypatch.setattr(audit, "_verified_databases", set())
    with CaptureQueriesContext(connections["default"]) as asked:
        require_safe_database(connections["default"])
        assert len(asked) > 5
        assert not [query for query in asked.captured_queries if "pg_index" in query["sql"]]
        verify_rls_isolation(connections["default"])
    assert [query for query in asked.captured_queries if "pg_index" in query["sql"]]


def test_the_audit_knows_users_own_indexes_and_names_any_other(alice, scratch):
    store(alice, "a", vectors_of(BIG))
    maintain()
    assert verify_rls_isolation(connections["default"]) == []
    partition = partition_of(alice)
    own = OwnIndex(alice.user_hash, default_space(), DIMENSION)
    others = {
        "everybodys": f"CREATE INDEX everybodys ON {partition} (space)",
        "no_predicate": f"CREATE INDEX no_predicate ON {partition} USING hnsw"
        " ((embedding::halfvec(384)) halfvec_cosine_ops) WHERE vector_dims(embedding) = 384",
        f"memory_own_{'0' * 32}_1": own.statement(partition).replace(own.name, f"memory_own_{'0' * 32}_1"),
    }
    with scratch.connect("r1_owner") as owner:
        for name, statement in others.items():
            owner.execute(statement)
            try:
                assert verify_rls_isolation(connections["default"]) == [
                    f"{partition} has the index {name}, which neither the migrations nor `maintain_indexes` make"
                ]
            finally:
                owner.execute(f"DROP INDEX {name}")
