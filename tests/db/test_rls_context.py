"""set_rls_context(): a user bound for a block, on whatever connection the caller brings."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction

from memory.errors import CrossTenantAttempt, InvalidUserId, TenantNotBound, UnsafeDatabase
from memory.isolation import audit as rls_audit
from memory.rls import bind_tenant, bind_transaction, set_rls_context, tenant_transaction
from tests.db.memories import remember
from tests.db.server import connect, conninfo

pytestmark = pytest.mark.django_db(transaction=True)

MINE = "SELECT doc_id FROM memory_documents WHERE user_hash = %s ORDER BY doc_id"
EVERYBODYS = "SELECT doc_id FROM memory_documents ORDER BY doc_id"
FORGET_A = "DELETE FROM memory_documents WHERE doc_id = 'a'"
SETTING = "SELECT current_setting('app.user_hash', true)"


class ClientLeft(Exception):
    """Stands for whatever ends a block in the middle."""


def kept(person) -> list[str]:
    with connect("r1_app") as raw, set_rls_context(raw, person.user_id) as user_hash:
        return [doc_id for (doc_id,) in raw.execute(MINE, [user_hash])]


def in_async(work) -> None:
    """Run `work(connection)` on an asynchronous connection of its own."""

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(**conninfo("r1_app"), autocommit=True) as raw:
            await work(raw)

    asyncio.run(run())


async def documents(raw: psycopg.AsyncConnection) -> list[str]:
    return [doc_id for (doc_id,) in await (await raw.execute(EVERYBODYS)).fetchall()]


@pytest.fixture(params=["set_config", "set_local"])
def binding(request, settings) -> None:
    settings.MEMORY_TENANT_BINDING = request.param


@pytest.mark.usefixtures("binding")
def test_a_block_on_a_psycopg_connection_sees_its_users_rows_and_leaves_nobody_bound(alice, bob):
    remember(alice, "a", "b")
    remember(bob, "z")
    with connect("r1_app") as raw:
        with set_rls_context(raw, alice.user_id) as user_hash:
            assert user_hash == alice.user_hash
            assert raw.execute(EVERYBODYS).fetchall() == [("a",), ("b",)]
        with set_rls_context(raw, bob.user_id):
            assert raw.execute(EVERYBODYS).fetchall() == [("z",)]
        assert raw.execute(SETTING).fetchone() == ("",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            raw.execute(EVERYBODYS)


def test_a_block_on_a_django_connection_commits_what_it_wrote_or_nothing(alice):
    remember(alice, "a", "b")
    django = connections["default"]
    with pytest.raises(ClientLeft), set_rls_context(django, alice.user_id), django.cursor() as cursor:
        cursor.execute(FORGET_A)
        raise ClientLeft
    assert kept(alice) == ["a", "b"]
    with set_rls_context(django, alice.user_id), django.cursor() as cursor:
        cursor.execute(FORGET_A)
    assert kept(alice) == ["b"]


def test_a_block_in_the_callers_transaction_is_undone_with_it_and_leaves_it_bound_to_nobody(alice):
    remember(alice, "a")
    django = connections["default"]
    with pytest.raises(DatabaseError, match="no tenant is bound"), transaction.atomic(), django.cursor() as cursor:
        with set_rls_context(django, alice.user_id):
            cursor.execute(FORGET_A)
        cursor.execute(EVERYBODYS)
    assert kept(alice) == ["a"]


def test_a_block_for_one_user_inside_another_users_is_stopped(alice, bob):
    with connect("r1_app") as raw, pytest.raises(CrossTenantAttempt), set_rls_context(raw, alice.user_id):
        with set_rls_context(raw, bob.user_id):
            pytest.fail("the block must not run")
    with connect("r1_app") as raw, pytest.raises(CrossTenantAttempt), bind_tenant(alice.user_hash):
        with set_rls_context(raw, bob.user_id):
            pytest.fail("the block must not run")


def test_an_id_that_is_not_canonical_binds_nobody():
    with connect("r1_app") as raw, pytest.raises(InvalidUserId):
        set_rls_context(raw, " alice")


def test_an_asynchronous_block_sees_its_users_rows_and_leaves_nobody_bound(alice, bob):
    remember(alice, "a", "b")
    remember(bob, "z")

    async def work(raw: psycopg.AsyncConnection) -> None:
        async with set_rls_context(raw, alice.user_id) as user_hash:
            assert user_hash == alice.user_hash
            assert await documents(raw) == ["a", "b"]
        async with set_rls_context(raw, bob.user_id):
            assert await documents(raw) == ["z"]
        assert await (await raw.execute(SETTING)).fetchone() == ("",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await documents(raw)

    in_async(work)


def test_an_asynchronous_block_commits_what_it_wrote_or_nothing(alice):
    remember(alice, "a", "b")

    async def work(raw: psycopg.AsyncConnection) -> None:
        with pytest.raises(ClientLeft):
            async with set_rls_context(raw, alice.user_id):
                await raw.execute(FORGET_A)
                raise ClientLeft
        async with raw.transaction():
            async with set_rls_context(raw, alice.user_id):
                assert await documents(raw) == ["a", "b"]
                await raw.execute(FORGET_A)
            assert await (await raw.execute(SETTING)).fetchone() == ("",)

    in_async(work)
    assert kept(alice) == ["b"]


def test_an_asynchronous_block_for_one_user_inside_another_users_is_stopped(alice, bob):
    async def work(raw: psycopg.AsyncConnection) -> None:
        with pytest.raises(CrossTenantAttempt):
            async with set_rls_context(raw, alice.user_id), set_rls_context(raw, bob.user_id):
                pytest.fail("the block must not run")
        with pytest.raises(CrossTenantAttempt), bind_tenant(alice.user_hash):
            async with set_rls_context(raw, bob.user_id):
                pytest.fail("the block must not run")

    in_async(work)


def test_nobody_is_bound_in_a_database_that_is_not_safe(alice, monkeypatch):
    monkeypatch.setattr(rls_audit, "_verified_databases", set())
    monkeypatch.setattr(rls_audit, "APP_ROLE", "somebody_else")

    async def work(raw: psycopg.AsyncConnection) -> None:
        with pytest.raises(UnsafeDatabase):
            async with set_rls_context(raw, alice.user_id):
                pytest.fail("the block must not run")

    in_async(work)
    with connect("r1_app") as raw, pytest.raises(UnsafeDatabase), set_rls_context(raw, alice.user_id):
        pytest.fail("the block must not run")


def test_a_connection_is_bound_in_its_own_way_of_waiting(alice):
    async def work(raw: psycopg.AsyncConnection) -> None:
        with pytest.raises(TypeError, match="async with"), set_rls_context(raw, alice.user_id):
            pytest.fail("the block must not run")
        with connect("r1_app") as other, pytest.raises(TypeError, match="by `with`"):
            async with set_rls_context(other, alice.user_id):
                pytest.fail("the block must not run")

    in_async(work)


@pytest.mark.usefixtures("binding")
def test_a_tenant_transaction_and_an_asynchronous_block_bind_in_either_way_and_leave_nobody_bound(alice, bob):
    remember(alice, "a")
    remember(bob, "z")
    with tenant_transaction(alice.user_hash) as tx:
        assert tx.execute(EVERYBODYS).fetchall() == [("a",)]

    async def work(raw: psycopg.AsyncConnection) -> None:
        async with set_rls_context(raw, bob.user_id):
            assert await documents(raw) == ["z"]
        assert await (await raw.execute(SETTING)).fetchone() == ("",)

    in_async(work)
    with connect("r1_app") as raw, pytest.raises(TenantNotBound), raw.transaction():
        bind_transaction(raw, "x'; DROP TABLE memory_chunks; --")
