"""A search names the partition of its user, and its plans are kept for everybody who has rows there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.db import connections
from pgvector import HalfVector

from memory.embedding.spaces import default_space
from memory.embedding.vectors import half_vectors
from memory.errors import NotFound
from memory.isolation import partitions
from memory.isolation.connection import array
from memory.isolation.partitions import PARTITIONED_TABLES, PARTITIONS, in_partition, partition_name, partition_of
from memory.lexical.bm25 import LexicalQuery
from memory.retrieval.filters import Filters
from memory.retrieval.plan import CHUNKS, Explaining, Plan
from memory.retrieval.sealed import SealedRows
from memory.retrieval.search import Search
from memory.retrieval.surroundings import Surroundings
from memory.rls import bind_tenant, joined_transaction, tenant_transaction
from memory.services.forget import delete_document
from r1site.embedded.data_folder import SUPERUSER
from r1site.settings.databases import PREPARED_AFTER_USES
from tests.db.lexicon import search, store
from tests.db.memories import unit_vector
from tests.db.server import connect
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

LEXICAL = LexicalQuery((4711, 4712), (1, 1))
MODE = "SELECT current_setting('plan_cache_mode')"
BIG, SMALL_USERS = 3_000, 12_000
_ROWS = """
INSERT INTO memory_chunks (user_hash, space, id, doc_id, chunk_index, char_start, char_end, source, thread_id, sequence,
                           generation, created_at, expires_at, embedding, text_cipher, meta_cipher, emb_cipher)
SELECT h, %(space)s, gen_random_uuid(), 'doc-' || n, 0, 0, 9, 'api', 'thread', 0, 1, now() + make_interval(mins => n),
       now() + interval '9 years', %(vector)s::halfvec, '', '', ''
FROM ({of}) each (h, n)"""
_HIS = "SELECT %(user_hash)s, n FROM generate_series(1, %(rows)s) n"
# Of users who have one row each in the same partition.
_NEIGHBOURS = f"""
SELECT h, 0 FROM (
    SELECT encode(sha256(n::text::bytea), 'hex') AS h FROM generate_series(1, {SMALL_USERS * 64}) n) hashes
WHERE satisfies_hash_partition('memory_chunks'::regclass, 64, %(number)s, h)"""


def number_of(person: Person) -> int:
    with tenant_transaction(person.user_hash, reads_state=False) as tx:
        return partition_of(person.user_hash, tx.execute)


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch):
    monkeypatch.setattr(partitions, "_numbers", {})


@pytest.fixture
def one_connection() -> None:
    """The pool has one, which is new."""
    connections["default"].close_pool()


def test_the_partition_is_the_one_in_which_the_rows_are(database):
    people = [Person.new("somebody") for _ in range(12)]
    for person in people:
        store(person, "a", ["heat pump"])
    with connect("r1_backup") as backup:
        for person in people:
            for table in ("memory_chunks", "memory_lexical_chunks"):
                sql = f"SELECT DISTINCT tableoid::regclass::text FROM {table} WHERE user_hash = %s"
                [held] = backup.execute(sql, [person.user_hash]).fetchall()
                assert held == (partition_name(table, number_of(person)),)
    assert len(set(partitions._numbers.values())) > 1


def test_the_server_is_asked_once_about_a_user_and_no_more_are_remembered_than_may_be(monkeypatch):
    monkeypatch.setattr(partitions, "_REMEMBERED", 2)
    asked = Counter()

    class Answer:
        def fetchone(self):
            return (None, 7)

    def execute(sql, params):
        asked[params[0][0]] += 1
        return Answer()

    for user_hash in ("a" * 64, "a" * 64, "b" * 64, "a" * 64):
        assert partition_of(user_hash, execute) == 7
    assert asked == {"a" * 64: 1, "b" * 64: 1}
    partition_of("c" * 64, execute)
    assert list(partitions._numbers) == ["c" * 64]


def test_every_partitioned_table_of_a_statement_is_named_by_its_partition_and_nothing_else_is():
    sql = "SELECT memory_chunks_meta, x.memory_chunks FROM memory_chunks c, memory_lexical_blocks, memory_tenants"
    assert in_partition(sql, 3) == (
        "SELECT memory_chunks_meta, x.memory_chunks_p03 FROM memory_chunks_p03 c, memory_lexical_blocks_p03,"
        " memory_tenants"
    )
    with connect("r1_backup") as backup:
        found = backup.execute(
            "SELECT i.inhparent::regclass::text, count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE c.relkind = 'r' GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert found == [(table, PARTITIONS) for table in PARTITIONED_TABLES]


def test_who_names_another_partition_than_his_own_finds_nothing(alice, bob, monkeypatch):
    for person in (alice, bob):
        store(person, "a", ["heat pump"])
    while number_of(bob) == number_of(alice):
        bob = Person.new("bob")
        store(bob, "a", ["heat pump"])
    assert len(search(alice, "heat pump")) == 1
    monkeypatch.setitem(partitions._numbers, alice.user_hash, number_of(bob))
    assert search(alice, "heat pump") == []


def test_a_search_is_planned_once_on_a_connection_and_all_else_for_its_parameters(alice, one_connection):
    store(alice, "a", ["heat pump", "tariff"])
    partition = partition_name("", number_of(alice))
    with tenant_transaction(alice.user_hash) as tx:
        assert tx.execute(MODE).fetchone() == ("force_custom_plan",)
    vector = half_vectors(unit_vector()[None, :])[0]
    prepared: dict[str, list[int]] = {}
    # On each of the connections that the pool may have by then.
    for _ in range(4 * (PREPARED_AFTER_USES + 1)):
        with tenant_transaction(alice.user_hash) as tx:
            assert len(Search(tx, default_space(), vector, 24, Filters(), LEXICAL).candidates()) == 2
            tx.execute("SELECT count(*) FROM memory_chunks WHERE user_hash = %s", [alice.user_hash])
            sql = "SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements"
            prepared |= {statement: plans for statement, *plans in tx.execute(sql).fetchall()}
    ours = [plans for statement, plans in prepared.items() if partition in statement]
    # The words; the rows that were found, by the vector leg too; what no answer has.
    assert sorted((generic > 0, custom > 0) for generic, custom in ours) == [(False, True)] + 2 * [(True, False)]
    others = [plans for statement, plans in prepared.items() if "FROM memory_chunks WHERE user_hash" in statement]
    assert others
    assert all(custom and not generic for generic, custom in others)


@pytest.mark.parametrize("filters", [Filters(), Filters(sources=("notes",))])
def test_however_many_words_are_found_it_is_the_same_statement(alice, one_connection, filters):
    """Else a connection would keep a plan for each kind of list that a question happens to give."""
    store(alice, "a", ["heat pump", "tariff"])
    for question in ("heat pump", "nothing of it", "tariff", "the", "heat pump tariff"):
        for _ in range(4 * (PREPARED_AFTER_USES + 1)):
            search(alice, question, filters=filters)
    with tenant_transaction(alice.user_hash) as tx:
        statements = tx.execute("SELECT statement FROM pg_prepared_statements").fetchall()
    assert max(Counter(statements).values()) == 1


def test_what_comes_after_a_kept_plan_in_the_transaction_is_planned_for_its_parameters(alice):
    with tenant_transaction(alice.user_hash) as tx:
        kept = tx.read_partition(MODE, {}, keeps_plan=True).fetchone()
        again = tx.read_partition(MODE, {}, keeps_plan=True).fetchone()
        own = tx.read_partition(MODE, {}, keeps_plan=False).fetchone()
        assert (kept, again, own) == (("force_generic_plan",), ("force_generic_plan",), ("force_custom_plan",))
        tx.read_partition(MODE, {}, keeps_plan=True)
        assert tx.execute(MODE).fetchone() == ("force_custom_plan",)
        tx.read_partition(MODE, {}, keeps_plan=True)
    with tenant_transaction(alice.user_hash) as tx:
        assert tx.execute(MODE).fetchone() == ("force_custom_plan",)


@pytest.mark.parametrize("keeps_plan", [False, True])
def test_what_is_sent_in_binary_reads_as_what_is_sent_as_text(alice, keeps_plan):
    sql = """SELECT %(n)s::smallint, %(n)s::integer, %(n)s::bigint, %(n)s::numeric, 0.1::float8 * 3, 'Grüße'::text,
        '\\x00ff'::bytea, true, NULL::uuid, '00000000-0000-0000-0000-00000000004d'::uuid"""
    with tenant_transaction(alice.user_hash) as tx:
        for _ in range(4):  # the third is prepared
            sent = [tx.read_partition(sql, {"n": 7}, keeps_plan=keeps_plan, binary=binary) for binary in (True, False)]
            in_binary, as_text = (list(map(_with_type, cursor.fetchone())) for cursor in sent)
            assert in_binary == as_text


def _with_type(value: object) -> tuple:
    return type(value), bytes(value) if isinstance(value, memoryview) else value


def test_a_callers_own_transaction_and_a_connection_that_prepares_nothing_keep_no_plan(alice):
    store(alice, "a", ["heat pump"])
    with connect("r1_app") as raw, raw.transaction(), joined_transaction(raw, alice.user_hash) as tx:
        assert tx.read_partition(MODE, {}, keeps_plan=True).fetchone() == ("force_custom_plan",)
    default = connections["default"]
    default.close_pool()
    options = default.settings_dict["OPTIONS"]
    threshold = options.pop("prepare_threshold")
    try:
        with tenant_transaction(alice.user_hash) as tx:
            assert tx.read_partition(MODE, {}, keeps_plan=True).fetchone() == ("force_custom_plan",)
        assert len(search(alice, "heat pump")) == 1
    finally:
        options["prepare_threshold"] = threshold
        default.close_pool()


def test_on_citus_which_finds_the_shard_by_the_parameters_no_plan_is_kept(alice, settings):
    settings.MEMORY_TENANT_BINDING = "set_local"
    store(alice, "a", ["heat pump"])
    with tenant_transaction(alice.user_hash) as tx:
        assert tx.read_partition(MODE, {}, keeps_plan=True).fetchone() == ("force_custom_plan",)
    assert len(search(alice, "heat pump")) == 1


def test_what_is_not_there_to_delete_costs_a_connection_none_of_its_plans(alice, one_connection):
    store(alice, "a", ["heat pump"])
    with tenant_transaction(alice.user_hash, keeps_connection=True) as tx:
        for _ in range(PREPARED_AFTER_USES + 1):
            tx.execute("SELECT 'kept', %s", [alice.user_hash])
    with bind_tenant(alice.user_hash), pytest.raises(NotFound):
        delete_document("never stored")
    kept = 0
    for _ in range(8):
        with tenant_transaction(alice.user_hash) as tx:
            kept += "kept" in str(tx.execute("SELECT statement FROM pg_prepared_statements").fetchall())
    assert kept


def test_an_array_is_written_as_the_server_reads_it():
    values = {
        "integer": [[], [0], [-(2**31), 2**31 - 1]],
        "float8": [[], [0.1 + 0.2, 1e-300, -0.0, 1.5e300]],
        "uuid": [[]],
    }
    with connect("r1_backup") as backup:
        for name, lists in values.items():
            for given in lists:
                assert backup.execute(f"SELECT %s::{name}[]", [array(given)]).fetchone() == (given,)
        ids = [row[0] for row in backup.execute("SELECT gen_random_uuid() FROM generate_series(1, 3)")]
        assert backup.execute("SELECT %s::uuid[]", [array(ids)]).fetchone() == (ids,)


# -- The plan is made for any user of a partition, and must do for its biggest


def rows_beside(person: Person) -> int:
    """How many rows stand in the person's partition."""
    with connect(SUPERUSER) as superuser:
        return superuser.execute(f"SELECT count(*) FROM {partition_name(CHUNKS, number_of(person))}").fetchone()[0]


@pytest.fixture
def giant(database) -> Iterator[Person]:
    """A user with many rows among many with one each, gone at the end: nothing of them opens."""
    # In the emptiest of some partitions: other tests leave big users too.
    person = min((Person.new("giant") for _ in range(20)), key=rows_beside)
    params = {
        "user_hash": person.user_hash, "space": default_space(), "rows": BIG, "number": number_of(person),
        "vector": HalfVector(unit_vector()).to_text(),
    }  # fmt: skip
    with connect(SUPERUSER) as superuser:
        for of in (_HIS, _NEIGHBOURS):
            superuser.execute(_ROWS.format(of=of), params)
        table = partition_name(CHUNKS, params["number"])
        superuser.execute(f"ANALYZE {table}")
        [(mean,)] = superuser.execute(f"SELECT count(*) / count(DISTINCT user_hash)::float FROM {table}").fetchall()
        assert mean < 1.5
        yield person
        superuser.execute(f"DELETE FROM {table} WHERE doc_id LIKE 'doc-%%'")
        superuser.execute(f"ANALYZE {table}")


def test_among_users_of_one_row_each_a_big_ones_rows_are_looked_up_one_by_one(giant):
    vector = half_vectors(unit_vector()[None, :])[0]
    with tenant_transaction(giant.user_hash, reads_state=False) as tx:
        explaining = Explaining(tx)
        search = Search(explaining, default_space(), vector, 24, Filters(), LEXICAL, context=True)
        found = search.candidates()
        assert len(found) >= 24
        SealedRows(explaining, default_space(), found).bring()
        Surroundings(explaining, default_space(), found, 3)
        single = [replace(candidate, thread_id=None) for candidate in found]
        Surroundings(explaining, default_space(), single, 3)
    roots = [Plan(root, "") for root in explaining._roots]
    # What no answer has, the words, the rows found, what is sealed of them, and what stands beside them: in their
    # thread, then in their document.
    assert len(roots) == 6
    # All his rows are weighed by one scan, the vector leg in the third, and by nothing else.
    read = [
        [scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan, _ in plan.scans(CHUNKS)]
        for plan in roots
    ]
    assert [rows.count(BIG) for rows in read] == [0, 0, 1, 0, 0, 0], read
    assert max(rows for plan in read for rows in plan if rows != BIG) <= 24, read
