"""The statement that brings what stands beside a result reads one user's rows, and few of them."""

import json

import pytest
from django.db import connections

from memory.embedding.spaces import default_space
from memory.embedding.vectors import half_vectors
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.retrieval import surroundings
from memory.retrieval.candidate import Candidate
from memory.retrieval.filters import Filters
from memory.retrieval.plan import CHUNKS, SEARCHED_TABLES, Plan, foreign_row_findings
from memory.retrieval.search import Search
from memory.retrieval.surroundings import Surroundings
from memory.rls import tenant_transaction
from memory.sealing.keyring import existing_profile
from memory.sealing.protection import protect
from tests.db.memories import unit_vector

pytestmark = pytest.mark.django_db(transaction=True)

CHUNKS_OF_THREAD = 300


@pytest.fixture
def long_thread(alice, bob, superuser):
    """Alice's thread of many chunks, in one document, and Bob's of the same name; the planner knows of them."""
    passages = [Slice(f"turn {n:04}. ", n * 11, n * 11 + 11) for n in range(CHUNKS_OF_THREAD)]
    for person in (alice, bob):
        vectors = [unit_vector() for _ in passages]
        index_memory_batch(
            connections["default"], person.user_id, "d", "chat", passages, vectors, thread_id="t"
        )  # fmt: skip
    superuser.execute("ANALYZE memory_chunks")
    return alice


def nearest(person, tx, count: int) -> list[Candidate]:
    profile = existing_profile(person.user_hash)
    vector = half_vectors(protect(profile.search_key, unit_vector()[None, :]))[0]
    return Search(tx, default_space(), vector, count, Filters()).candidates()


def explained(tx, sql: str, params: dict) -> Plan:
    tree = tx.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql, params).fetchone()[0]
    return Plan(json.loads(tree)[0] if isinstance(tree, str) else tree[0], "")


@pytest.mark.parametrize("statement", ["_IN_THREAD", "_IN_DOCUMENT"])
def test_each_side_is_an_index_range_of_the_users_own_that_ends_after_so_many(long_thread, statement):
    user_hash, space = long_thread.user_hash, default_space()
    with tenant_transaction(user_hash) as tx:
        found = nearest(long_thread, tx, 8)
        params = {"user_hash": user_hash, "space": space, "count": 3} | surroundings._places(found)
        plan = explained(tx, getattr(surroundings, statement), params)
    assert foreign_row_findings(plan, user_hash, dict.fromkeys(SEARCHED_TABLES, CHUNKS_OF_THREAD)) == []
    scans = plan.scans(CHUNKS)
    assert len(scans) == 2
    for node, _ in scans:
        assert "chunk_index" in node["Index Cond"], "the place is where the scan begins"
        assert node["Actual Loops"] == len(found)
        assert node["Actual Rows"] + node.get("Rows Removed by Filter", 0) <= 4


def test_as_many_come_as_were_asked_for_in_order_and_none_is_the_place_itself(long_thread):
    user_hash, space = long_thread.user_hash, default_space()
    with tenant_transaction(user_hash) as tx:
        found = nearest(long_thread, tx, 8)
        beside = Surroundings(tx, space, found, 3)
        tx.end()
    beside.give(existing_profile(user_hash), found)
    for place in found:
        around = [n.chunk_index for n in place.before] + [place.chunk_index] + [n.chunk_index for n in place.after]
        low, high = max(0, place.chunk_index - 3), min(CHUNKS_OF_THREAD - 1, place.chunk_index + 3)
        assert around == list(range(low, high + 1))
        assert all(n.text == f"turn {n.chunk_index:04}. " for n in (*place.before, *place.after))
