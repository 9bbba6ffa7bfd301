"""What a question is narrowed to is found by an index: not all of a big user's rows are read for one of his threads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pgvector import HalfVector

from memory.embedding.spaces import default_space
from memory.embedding.vectors import half_vectors
from memory.lexical.bm25 import LexicalQuery
from memory.retrieval import chunks as chunks_read
from memory.retrieval.chunks import ChunkScope
from memory.retrieval.filters import Filters
from memory.retrieval.plan import CHUNKS, Explaining, Plan
from memory.retrieval.search import Search
from memory.rls import TenantTransaction, tenant_transaction
from memory.services.listing import ListingFilters, page_statement
from r1site.embedded.data_folder import SUPERUSER
from tests.db.memories import unit_vector
from tests.db.server import connect
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

ROWS, NARROWED = 4_000, 20
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
EXPLAIN = "EXPLAIN (ANALYZE, FORMAT JSON) "
# A row a minute, a document a row; every 200th is of the thread, of the source and in the documents asked for.
_FILL = """
INSERT INTO memory_chunks (user_hash, space, id, doc_id, chunk_index, char_start, char_end, source, thread_id, sequence,
                           speaker, generation, created_at, embedding, text_cipher, meta_cipher, emb_cipher)
SELECT %(user_hash)s, %(space)s, gen_random_uuid(), 'doc-' || n, 0, 0, 9,
       CASE WHEN n %% %(every)s = 0 THEN 'mail' ELSE 'api' END,
       CASE WHEN n %% %(every)s = 0 THEN 'holidays' WHEN n %% 2 = 0 THEN 'work-' || n %% 40 END, 0,
       CASE WHEN n %% %(every)s = 0 THEN 4711 ELSE n %% 7 END,
       1, %(first)s + make_interval(mins => n), %(vector)s::halfvec, '', '', ''
FROM generate_series(0, %(rows)s - 1) n"""
_FILL_DOCUMENTS = """
INSERT INTO memory_documents (user_hash, doc_id, source, thread_id, chunk_count, char_count, generation, meta_cipher,
                              content_mac, created_at)
SELECT user_hash, doc_id, source, thread_id, 1, 9, 1, '', decode(repeat('00', 32), 'hex'), created_at
FROM memory_chunks WHERE user_hash = %(user_hash)s"""


@pytest.fixture(scope="module")
def hoarder(django_db_setup, django_db_blocker) -> Iterator[Person]:
    """A user with many rows, taken away again at the end: nothing of them opens."""
    with django_db_blocker.unblock(), connect(SUPERUSER) as superuser:
        person = Person.new("hoarder")
        params = {
            "user_hash": person.user_hash, "space": default_space(), "rows": ROWS, "every": ROWS // NARROWED,
            "first": FIRST, "vector": HalfVector(unit_vector()).to_text(),
        }  # fmt: skip
        superuser.execute(_FILL, params)
        superuser.execute(_FILL_DOCUMENTS, params)
        # As autovacuum leaves them, sooner or later.
        superuser.execute("VACUUM (ANALYZE) memory_chunks, memory_documents")
        yield person
        for table in ("memory_chunks", "memory_documents"):
            superuser.execute(f"DELETE FROM {table} WHERE user_hash = %s", [person.user_hash])


def explained(tx: TenantTransaction, sql: str, params) -> Plan:
    tree = tx.execute(EXPLAIN + sql, params).fetchone()[0]
    return Plan((json.loads(tree) if isinstance(tree, str) else tree)[0], "")


def read_rows(plan: Plan) -> int:
    """How many rows of chunks all scans of them have read together, those that a filter then dropped included."""
    read = 0
    for node, _ in plan.scans(CHUNKS):
        if node["Node Type"] != "Bitmap Heap Scan":
            read += node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
    return round(read)


def searched(person: Person, filters: Filters, lexical: LexicalQuery | None, *, context: bool = False):
    """(the plan of a search's statements, how many candidates it found)"""
    vector = half_vectors(unit_vector()[None, :])[0]
    with tenant_transaction(person.user_hash) as tx:
        explaining = Explaining(tx)
        found = Search(explaining, default_space(), vector, 24, filters, lexical, context=context).candidates()
    return explaining.plan({}, wants_own_index=False), len(found)


def index_conditions(plan: Plan) -> str:
    return " ".join(node.get("Index Cond", "") for node, _ in plan.scans(CHUNKS))


SINCE = FIRST + timedelta(minutes=ROWS - NARROWED)
NARROWING = {
    "thread_id": Filters(thread_id="holidays"),
    "source": Filters(sources=("mail",)),
    "created_at": Filters(since=SINCE),
    "created_at <": Filters(until=FIRST + timedelta(minutes=NARROWED)),
    "doc_id": Filters(doc_ids=tuple(f"doc-{n}" for n in range(NARROWED))),
}
NARROWING["speaker"] = Filters(speaker=4711)
LEXICAL = LexicalQuery(tuple(range(6)), (1,) * 6)


@pytest.mark.parametrize("lexical", [None, LEXICAL], ids=["one leg", "both legs"])
@pytest.mark.parametrize("column", NARROWING)
def test_a_narrowed_question_reads_only_the_rows_it_is_narrowed_to(hoarder, column, lexical):
    plan, found = searched(hoarder, NARROWING[column], lexical)
    assert found == NARROWED
    assert column in index_conditions(plan)
    # Once to find them, and with two legs once more by their ids.
    assert read_rows(plan) <= NARROWED * (1 if lexical is None else 2)


def test_a_question_that_is_not_narrowed_reads_every_row(hoarder):
    """What the test above would count if a filter had no index."""
    plan, _ = searched(hoarder, Filters(), None)
    assert read_rows(plan) == ROWS


LISTED = {"source": ListingFilters(source="mail"), "thread_id": ListingFilters(thread_id="holidays")}


@pytest.mark.parametrize("column", LISTED)
def test_a_narrowed_listing_reads_only_what_it_lists(hoarder, column):
    statement = page_statement(hoarder.user_hash, LISTED[column], None, 50)
    with tenant_transaction(hoarder.user_hash) as tx:
        plan = explained(tx, *statement)
    scans = [node for node, _ in plan.scans("memory_documents")]
    assert plan.root["Plan"]["Actual Rows"] == NARROWED
    assert column in " ".join(node.get("Index Cond", "") for node in scans)
    assert sum(node.get("Rows Removed by Filter", 0) for node in scans) == 0


SCOPES = {
    "thread_id": ChunkScope(thread_id="holidays"),
    "source": ChunkScope(source="mail"),
    "doc_id": ChunkScope(doc_ids=tuple(f"doc-{n}" for n in range(NARROWED))),
}


@pytest.mark.parametrize("column", SCOPES)
def test_a_thread_a_source_or_documents_are_read_without_the_rest(hoarder, column):
    with tenant_transaction(hoarder.user_hash) as tx:
        explaining = Explaining(tx)
        chunks_read._queue(explaining, SCOPES[column], default_space(), 201)
    plan = explaining.plan({}, wants_own_index=False)
    [statement] = plan.root["Plan"]["Plans"]
    assert statement["Actual Rows"] == NARROWED
    assert column in index_conditions(plan)
    assert read_rows(plan) <= NARROWED


def test_what_stands_beside_a_candidate_is_read_from_its_place_in_the_thread_on(hoarder):
    filters = NARROWING["thread_id"]
    plans = [searched(hoarder, filters, LEXICAL, context=context)[0] for context in (False, True)]
    beside = [node for node, _ in plans[1].scans(CHUNKS) if "ROW(" in node.get("Index Cond", "")]
    assert len(beside) == 2
    for node in beside:
        assert "thread_id = " in node["Index Cond"]
        assert node["Actual Loops"] == NARROWED and node["Actual Rows"] <= 2
    assert read_rows(plans[1]) <= read_rows(plans[0]) + 4 * NARROWED
