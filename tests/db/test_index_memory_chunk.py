"""index_memory_chunk(): a text and its vector, brought by code of the same process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import psycopg
import pytest
from django.db import connections, transaction
from psycopg.pq import TransactionStatus

from memory.embedding.process import get_embedder
from memory.errors import CrossTenantAttempt, InvalidEmbedding, InvalidUserId
from memory.indexing.write import aindex_memory_chunk, index_memory_chunk
from memory.rls import set_rls_context, tenant_transaction
from tests.db.memories import unit_vector
from tests.db.server import connect, conninfo

pytestmark = pytest.mark.django_db(transaction=True)

TEXT = "The lighthouse keeper paints the railing in May."
CHUNKS = "SELECT id, doc_id, source, chunk_index, text_cipher FROM memory_chunks WHERE user_hash = %s ORDER BY doc_id"


def chunks_of(person) -> list[tuple]:
    with tenant_transaction(person.user_hash) as tx:
        return tx.execute(CHUNKS, [person.user_hash]).fetchall()


def test_a_stored_text_is_found_and_cited_by_its_user_and_by_nobody_else(alice, bob):
    [vector] = get_embedder().embed_passages([TEXT])
    chunk_id = index_memory_chunk(connections["default"], alice.user_id, "notes/1", "diary", TEXT, vector, {"page": 7})
    [found] = alice.query("Who paints the railing?").json()["results"]
    assert (found["doc_id"], found["source"], found["text"], found["metadata"]) == (
        "notes/1",
        "diary",
        TEXT,
        {"page": 7},
    )
    assert found["chunk_id"] == str(chunk_id)
    assert bob.query("Who paints the railing?").json()["results"] == []


def test_a_stored_text_is_one_sealed_row_under_the_id_that_is_given_back(alice):
    chunk_id = index_memory_chunk(connections["default"], alice.user_id, "notes/1", "diary", TEXT, unit_vector())
    [(row_id, doc_id, source, chunk_index, text_cipher)] = chunks_of(alice)
    assert (row_id, doc_id, source, chunk_index) == (chunk_id, "notes/1", "diary", 0)
    assert b"lighthouse" not in bytes(text_cipher)


def test_a_call_replaces_what_its_document_held_and_nothing_beside_it(alice):
    django = connections["default"]
    beside = index_memory_chunk(django, alice.user_id, "beside", "diary", TEXT, unit_vector())
    first = index_memory_chunk(django, alice.user_id, "notes/1", "diary", TEXT, unit_vector())
    second = index_memory_chunk(django, alice.user_id, "notes/1", "letters", "He does not.", unit_vector())
    assert [row[:3] for row in chunks_of(alice)] == [(beside, "beside", "diary"), (second, "notes/1", "letters")]
    assert first != second


@pytest.mark.parametrize(
    "embedding",
    [np.zeros(384), np.full(384, np.nan), np.ones(383), np.ones((2, 384))],
    ids=["zero", "nan", "short", "two"],
)
def test_a_vector_that_is_none_stores_nothing(alice, embedding):
    index_memory_chunk(connections["default"], alice.user_id, "notes/1", "diary", TEXT, unit_vector())
    before = chunks_of(alice)
    with pytest.raises(InvalidEmbedding):
        index_memory_chunk(connections["default"], alice.user_id, "notes/1", "diary", "Other words.", embedding)
    assert chunks_of(alice) == before


def test_an_id_that_is_not_canonical_stores_nothing():
    with pytest.raises(InvalidUserId):
        index_memory_chunk(connections["default"], " alice", "notes/1", "diary", TEXT, unit_vector())


def test_a_call_in_the_callers_transaction_is_undone_with_it(alice):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        index_memory_chunk(connections["default"], alice.user_id, "notes/1", "diary", TEXT, unit_vector())
        raise ZeroDivisionError
    assert chunks_of(alice) == []


def test_a_call_in_another_users_transaction_is_stopped(alice, bob):
    with pytest.raises(CrossTenantAttempt), tenant_transaction(alice.user_hash, write=True):
        index_memory_chunk(connections["default"], bob.user_id, "notes/1", "diary", TEXT, unit_vector())
    assert chunks_of(alice) == chunks_of(bob) == []


def test_a_call_on_a_psycopg_connection_stores_alike_also_in_a_bound_block(alice):
    with connect("r1_app") as raw:
        one = index_memory_chunk(raw, alice.user_id, "a", "diary", TEXT, unit_vector())
        with set_rls_context(raw, alice.user_id):
            two = index_memory_chunk(raw, alice.user_id, "b", "diary", TEXT, unit_vector())
    assert [row[0] for row in chunks_of(alice)] == [one, two]


@asynccontextmanager
async def connected_as_app():
    async with await psycopg.AsyncConnection.connect(**conninfo("r1_app"), autocommit=True) as conn:
        yield conn


def test_the_async_twin_stores_alike_on_an_asynchronous_connection(alice, bob):
    async def store() -> list:
        async with connected_as_app() as conn:
            own = await aindex_memory_chunk(conn, alice.user_id, "a", "diary", TEXT, unit_vector(), {"page": 7})
            async with set_rls_context(conn, alice.user_id):
                joined = await aindex_memory_chunk(conn, alice.user_id, "b", "diary", TEXT, unit_vector())
                with pytest.raises(CrossTenantAttempt):
                    await aindex_memory_chunk(conn, bob.user_id, "c", "diary", TEXT, unit_vector())
            with pytest.raises(InvalidEmbedding):
                await aindex_memory_chunk(conn, alice.user_id, "a", "diary", "Other words.", np.ones(383))
            return [own, joined]

    stored = asyncio.run(store())
    assert [row[0] for row in chunks_of(alice)] == stored
    assert chunks_of(bob) == []
    assert alice.get("memory/documents/a").json()["metadata"] == {"page": 7}


def test_a_call_on_an_asynchronous_connection_is_undone_with_the_callers_transaction(alice):
    async def store() -> None:
        async with connected_as_app() as conn, conn.transaction(force_rollback=True):
            await aindex_memory_chunk(conn, alice.user_id, "a", "diary", TEXT, unit_vector())

    asyncio.run(store())
    assert chunks_of(alice) == []


def test_a_call_that_is_cancelled_stores_nothing_and_leaves_the_connection_to_its_owner(alice, superuser):
    index_memory_chunk(connections["default"], alice.user_id, "a", "diary", TEXT, unit_vector())
    before = chunks_of(alice)

    async def store() -> None:
        async with connected_as_app() as conn:
            call = asyncio.create_task(
                aindex_memory_chunk(conn, alice.user_id, "a", "diary", "Other words.", unit_vector())
            )
            blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid)))"
            with connect("postgres") as holder:
                holder.execute("BEGIN")
                holder.execute("SELECT FROM memory_tenants WHERE user_hash = %s FOR UPDATE", [alice.user_hash])
                while not superuser.execute(blocked, [holder.info.backend_pid]).fetchone()[0]:
                    assert not call.done()
                    await asyncio.sleep(0.01)
                call.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await call
            assert conn.info.transaction_status == TransactionStatus.IDLE
            assert (await (await conn.execute("SELECT current_setting('app.user_hash', true)")).fetchone())[0] in (
                None,
                "",
            )

    asyncio.run(store())
    assert chunks_of(alice) == before


def test_the_async_twin_stores_alike_in_a_thread_and_takes_no_connection_of_djangos(alice):
    with connect("r1_app") as raw:
        chunk_id = asyncio.run(aindex_memory_chunk(raw, alice.user_id, "notes/1", "diary", TEXT, unit_vector()))
    assert [row[0] for row in chunks_of(alice)] == [chunk_id]
    with pytest.raises(TypeError, match="psycopg"):
        asyncio.run(aindex_memory_chunk(connections["default"], alice.user_id, "b", "diary", TEXT, unit_vector()))
