"""Break isolation in one place at a time: the audit names it, and what it protects really falls.

Each mutation happens inside a transaction that is rolled back, in a database of its own: role attributes and
memberships are the whole server's, and nobody else ever sees these.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import psycopg
import pytest
from django.db import ProgrammingError, connections
from psycopg import errors

from memory import rls
from memory.checks import database_keeps_tenants_apart
from memory.errors import UnsafeDatabase
from memory.isolation import audit as rls_audit
from memory.isolation.audit import APPEND_ONLY_TABLES, POLICIES, STAFF_VIEWS, TENANT_TABLES, verify_rls_isolation
from memory.isolation.partitions import PARTITIONED_TABLES
from memory.isolation.role_audit import ROLE_SETTINGS
from memory.maintenance.rls_probe import probe_two_users
from memory.migrations._sqlfile import SQL_FOLDER
from memory.models import Document
from r1site.embedded.bootstrap import ROLES_FILE
from tests.db.memories import flush_terms, remember, remember_requests, remember_summary
from tests.db.requests import within_a_request
from tests.db.scratch import ScratchDatabase, scratch_database
from tests.db.server import bind
from tests.people import Person

GUARD = "CREATE OR REPLACE FUNCTION memory_current_user_hash() RETURNS text LANGUAGE plpgsql"
QUIET_GUARD = f"{GUARD} STABLE AS $$BEGIN RETURN nullif(current_setting('app.user_hash', true), ''); END$$"


@dataclass(frozen=True)
class House:
    """The database that is taken apart, and two users with rows in all of its tables."""

    scratch: ScratchDatabase
    alice: Person
    bob: Person
    superuser: psycopg.Connection


@pytest.fixture(scope="module")
def house(database) -> Iterator[House]:
    with scratch_database("audit") as scratch:
        scratch.migrate()
        superuser = scratch.connect()
        house = House(scratch, Person.new("alice"), Person.new("bob"), superuser)
        with scratch.as_alias("default"):
            for person in (house.alice, house.bob):
                remember(person, "a", "b")
                flush_terms(person, chunks=1)
                remember_requests(person)
                remember_summary(person, "c", "a", "b")
        with superuser:
            yield house


@contextmanager
def broken(house: House, *statements: str) -> Iterator[psycopg.Connection]:
    """The superuser, inside a transaction in which `statements` hold and which leaves no trace."""
    with house.superuser.transaction(force_rollback=True):
        for statement in statements:
            house.superuser.execute(statement)
        yield house.superuser


def findings(superuser: psycopg.Connection, role: str = "r1_app") -> list[str]:
    superuser.execute(f"SET LOCAL ROLE {role}")
    return verify_rls_isolation(superuser)


# -- What a breach looks like from inside


def breaches(superuser: psycopg.Connection, house: House) -> Iterator[str]:
    """The isolation matrix in small, as sentences: what a role can do that it must not, or cannot that it must.

    Tried one after another, so that who looks for one of them stops where it is found.
    """
    yield from _breaches_by_the_service(superuser, house)
    yield from _breaches_by_others(superuser, house)


def _breaches_by_the_service(superuser, house) -> Iterator[str]:
    alice, bob = house.alice.user_hash, house.bob.user_hash
    act = _actor(superuser, "r1_app", alice)
    for table in TENANT_TABLES:
        seen = act(f"SELECT user_hash FROM {table}")
        if isinstance(seen, str) or (alice,) not in seen:
            yield f"alice does not see her {table}"
        elif set(seen) != {(alice,)}:
            yield f"alice sees bob's {table}"
        for command in (f"UPDATE {table} SET user_hash = user_hash", f"DELETE FROM {table}"):
            verb = command.split()[0]
            own, others = (act(f"{command} WHERE user_hash = '{whose}' RETURNING 1") for whose in (alice, bob))
            if table in APPEND_ONLY_TABLES:
                if not _is_refused(own):
                    yield f"alice can {verb} her {table}"
                if not _is_refused(others) and others != []:
                    yield f"alice can {verb} bob's {table}"
                continue
            if not own:
                yield f"alice cannot {verb} her {table}"
            if others != []:
                yield f"alice can {verb} bob's {table}"
        insert = f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(NULL::{table}, '{{}}') RETURNING 1"
        row = _a_row(superuser, table, alice)
        if table in APPEND_ONLY_TABLES:
            inserted = act(insert.format(json.dumps(row | {"id": str(uuid.uuid4())})))
        else:
            inserted = act(f"DELETE FROM {table}", insert.format(json.dumps(row)))
        if inserted != [(1,)]:
            yield f"alice cannot INSERT her {table}"
        if not _is_refused(act(insert.format(json.dumps(row | {"user_hash": "1" * 64})))):
            yield f"alice can INSERT {table} for somebody else"
        if not _is_refused(act(f"UPDATE {table} SET user_hash = '{'0' * 64}' WHERE user_hash = '{alice}' RETURNING 1")):
            yield f"alice can give away her {table}"
        if not _is_refused(act(f"TRUNCATE {table}")):
            yield f"alice can TRUNCATE {table}"
    hers = _partitions(superuser, alice)
    for partition in _partitions(superuser):
        seen = act(f"SELECT user_hash FROM {partition}")
        if partition in hers and (isinstance(seen, str) or (alice,) not in seen):
            yield f"alice does not see her rows in {partition}"
        elif set(seen) - {(alice,)}:
            yield f"alice sees bob's rows in {partition}"
        row = json.dumps(_a_row(superuser, partition, alice if partition in hers else bob))
        for verb, command in {
            "UPDATE": f"UPDATE {partition} SET user_hash = user_hash",
            "DELETE": f"DELETE FROM {partition}",
            "INSERT": f"INSERT INTO {partition} SELECT * FROM jsonb_populate_record(NULL::{partition}, '{row}')",
        }.items():
            if not _is_refused(act(command)):
                yield f"alice may {verb} in {partition}"
        if not _is_refused(act(f"SELECT user_hash FROM {partition}", bound=None)):
            yield f"nobody in particular is answered from {partition}"
    for view in STAFF_VIEWS:
        if not _is_refused(act(f"SELECT user_hash FROM {view}")):
            yield f"alice may read {view}"
    for table in TENANT_TABLES:
        if not _is_refused(act(f"SELECT user_hash FROM {table}", bound=None)):
            yield f"nobody in particular is answered from {table}"


def _breaches_by_others(superuser, house) -> Iterator[str]:
    owner = _actor(superuser, "r1_owner", house.bob.user_hash)
    staff = _actor(superuser, "r1_staff", house.bob.user_hash)
    for table in TENANT_TABLES:
        if owner(f"SELECT user_hash FROM {table}") != []:
            yield f"the owner sees {table}"
        for column in ("user_hash", "*"):
            if not _is_refused(staff(f"SELECT {column} FROM {table}")):
                yield f"staff may read {table}"
    if not _is_refused(staff("SELECT text_cipher FROM memory_chunks")):
        yield "staff may read sealed text"
    for partition in _partitions(superuser):
        if owner(f"SELECT user_hash FROM {partition}") != []:
            yield f"the owner sees the partition {partition}"
        if not _is_refused(staff(f"SELECT user_hash FROM {partition}")):
            yield f"staff may read the partition {partition}"


def _actor(superuser: psycopg.Connection, role: str, user_hash: str) -> Callable:
    """A function: statements -> the last one's rows, or the SQLSTATE of a refusal. Nothing of it stays."""

    def act(*statements: str, bound: str | None = user_hash) -> list[tuple] | str:
        try:
            with superuser.transaction(force_rollback=True):
                superuser.execute(f"SET LOCAL ROLE {role}")
                if bound is not None:
                    bind(superuser, bound)
                for statement in statements:
                    cursor = superuser.execute(statement)
                return cursor.fetchall() if cursor.description else []
        except psycopg.Error as exc:
            return exc.sqlstate

    return act


def _is_refused(answer: list[tuple] | str) -> bool:
    return answer == "42501"


def _a_row(superuser: psycopg.Connection, table: str, user_hash: str) -> dict:
    """One row as it is stored, whatever is broken."""
    with superuser.transaction(force_rollback=True):
        superuser.execute("RESET ROLE")
        row = f"SELECT to_jsonb(r) FROM {table} r WHERE user_hash = %s LIMIT 1"
        return superuser.execute(row, [user_hash]).fetchone()[0]


def _partitions(superuser: psycopg.Connection, user_hash: str | None = None) -> list[str]:
    """The partitions that hold rows, of this user if of any: an empty one could not show a leak."""
    held = " UNION ".join(
        f"SELECT tableoid::regclass::text FROM {table} WHERE user_hash = %(whose)s OR %(whose)s IS NULL"
        for table in PARTITIONED_TABLES
    )
    with superuser.transaction(force_rollback=True):
        superuser.execute("RESET ROLE")
        return [name for (name,) in superuser.execute(held, {"whose": user_hash})]


def test_with_nothing_broken_the_audit_finds_nothing_and_nobody_gets_through(house):
    with broken(house) as superuser:
        assert len(_partitions(superuser)) >= 1
        assert list(breaches(superuser, house)) == []
        assert findings(superuser) == []


# -- One mutation at a time. (what is broken) -> (statements, what the audit says, what can then be done)

HELD = "SELECT tableoid::regclass::text FROM memory_chunks WHERE user_hash = %s LIMIT 1"
MUTATIONS: dict[str, tuple[list[str], str, str | None]] = {}
for _table in TENANT_TABLES:
    for _suffix in POLICIES:
        _policy = f"memory_tenant_isolation_{_suffix}"
        _verb = "does not see" if _suffix == "select" else f"cannot {_suffix.upper()}"
        MUTATIONS[f"{_table} without its {_suffix} policy"] = (
            [f"DROP POLICY {_policy} ON {_table}"],
            f"{_table} lacks the policy {_policy}",
            None if _table in APPEND_ONLY_TABLES and _suffix in ("update", "delete") else f"alice {_verb} her {_table}",
        )
    MUTATIONS |= {
        f"{_table} readable by a policy that is always true": (
            [f"ALTER POLICY memory_tenant_isolation_select ON {_table} USING (true)"],
            f"{_table}: the policy memory_tenant_isolation_select is not the one",
            f"alice sees bob's {_table}",
        ),
        f"{_table} writable by a policy that is always true": (
            [
                f"ALTER POLICY memory_tenant_isolation_update ON {_table} USING (true) WITH CHECK (true)",
                f"ALTER POLICY memory_tenant_isolation_select ON {_table} USING (true)",
            ],
            f"{_table}: the policy memory_tenant_isolation_update is not the one",
            f"alice sees bob's {_table}" if _table in APPEND_ONLY_TABLES else f"alice can UPDATE bob's {_table}",
        ),
        f"{_table} with one policy too many": (
            [f"CREATE POLICY generous ON {_table} USING (true)"],
            f"{_table} has an unknown policy generous",
            f"alice sees bob's {_table}",
        ),
        f"{_table} without FORCE": (
            [f"ALTER TABLE {_table} NO FORCE ROW LEVEL SECURITY"],
            f"{_table} lacks FORCE ROW LEVEL SECURITY",
            f"the owner sees {_table}",
        ),
        f"{_table} without row-level security": (
            [f"ALTER TABLE {_table} DISABLE ROW LEVEL SECURITY"],
            f"{_table} lacks ENABLE ROW LEVEL SECURITY",
            f"alice sees bob's {_table}",
        ),
        f"{_table} writable for anybody": (
            [f"ALTER POLICY memory_tenant_isolation_insert ON {_table} WITH CHECK (true)"],
            f"{_table}: the policy memory_tenant_isolation_insert is not the one",
            f"alice can INSERT {_table} for somebody else",
        ),
        f"{_table} granted to everybody": (
            [f"GRANT SELECT ON {_table} TO PUBLIC"],
            f"{_table} grants SELECT to PUBLIC",
            f"staff may read {_table}",
        ),
        f"{_table} granted to staff": (
            [f"GRANT SELECT ON {_table} TO r1_staff"],
            f"{_table} grants SELECT to r1_staff",
            f"staff may read {_table}",
        ),
        f"{_table} with TRUNCATE for the service": (
            [f"GRANT TRUNCATE ON {_table} TO r1_app"],
            f"{_table} grants TRUNCATE to r1_app",
            f"alice can TRUNCATE {_table}",
        ),
        f"{_table} with TRIGGER for the service": (
            [f"GRANT TRIGGER ON {_table} TO r1_app"],
            f"{_table} grants TRIGGER to r1_app",
            None,
        ),
        f"{_table} not readable by the service": (
            [f"REVOKE SELECT ON {_table} FROM r1_app"],
            f"{_table} does not grant SELECT to r1_app",
            f"alice does not see her {_table}",
        ),
        f"{_table} owned by the service": (
            [f"ALTER TABLE {_table} OWNER TO r1_app"],
            f"r1_app, the owner of {_table}",
            None,
        ),
    }  # fmt: skip
for _table in APPEND_ONLY_TABLES:
    for _verb in ("UPDATE", "DELETE"):
        MUTATIONS[f"{_table} with {_verb} for the service"] = (
            [f"GRANT {_verb} ON {_table} TO r1_app"],
            f"{_table} grants {_verb} to r1_app",
            f"alice can {_verb} her {_table}",
        )
    MUTATIONS |= {
        f"{_table} with one column to change for the service": (
            [f"GRANT UPDATE (user_hash) ON {_table} TO r1_app"],
            f"{_table} grants column UPDATE to r1_app",
            f"alice can UPDATE her {_table}",
        ),
        f"{_table} with UPDATE for maintenance": (
            [f"GRANT UPDATE ON {_table} TO r1_maint"],
            f"{_table} is append-only and grants UPDATE to r1_maint",
            None,
        ),
        f"{_table} with one column to change for maintenance": (
            [f"GRANT UPDATE (erased_at) ON {_table} TO r1_maint"],
            f"{_table} is append-only and grants column UPDATE to r1_maint",
            None,
        ),
        f"{_table} that takes no line": (
            [f"REVOKE INSERT ON {_table} FROM r1_app"],
            f"{_table} does not grant INSERT to r1_app",
            f"alice cannot INSERT her {_table}",
        ),
    }
MUTATIONS |= {
    "a policy for everybody": (
        ["ALTER POLICY memory_tenant_isolation_select ON memory_chunks TO PUBLIC"],
        "memory_chunks: the policy memory_tenant_isolation_select is not the one",
        "the owner sees memory_chunks",
    ),
    "a policy that only restricts": (
        [
            "DROP POLICY memory_tenant_isolation_select ON memory_chunks",
            "CREATE POLICY memory_tenant_isolation_select ON memory_chunks AS RESTRICTIVE FOR SELECT TO r1_app"
            " USING (user_hash = (SELECT memory_current_user_hash()))",
        ],
        "memory_chunks: the policy memory_tenant_isolation_select is not the one",
        "alice does not see her memory_chunks",
    ),
    "a policy without the sub-select": (
        ["ALTER POLICY memory_tenant_isolation_select ON memory_chunks USING (user_hash = memory_current_user_hash())"],
        "memory_chunks: the policy memory_tenant_isolation_select is not the one",
        None,
    ),
    "a column granted to staff": (
        ["GRANT SELECT (text_cipher) ON memory_chunks TO r1_staff"],
        "memory_chunks grants column SELECT to r1_staff",
        "staff may read sealed text",
    ),
    "a column granted to everybody": (
        ["GRANT SELECT (text_cipher) ON memory_chunks TO PUBLIC"],
        "memory_chunks grants column SELECT to PUBLIC",
        "staff may read sealed text",
    ),
    "a metadata view granted to the service": (
        ["GRANT SELECT ON memory_chunks_meta TO r1_app"],
        "memory_chunks_meta is a view, outside the policies, and grants SELECT to r1_app",
        "alice may read memory_chunks_meta",
    ),
    "a partition without FORCE": (
        ["ALTER TABLE {partition} NO FORCE ROW LEVEL SECURITY"],
        "{partition} lacks FORCE ROW LEVEL SECURITY",
        "the owner sees the partition {partition}",
    ),
    "a partition without row-level security": (
        ["ALTER TABLE {partition} DISABLE ROW LEVEL SECURITY"],
        "{partition} lacks ENABLE ROW LEVEL SECURITY",
        "the owner sees the partition {partition}",
    ),
    "a partition that the service may delete from": (
        ["GRANT DELETE ON {partition} TO r1_app"],
        "{partition} is a partition and grants DELETE, SELECT to r1_app",
        "alice may DELETE in {partition}",
    ),
    "a partition with one column to change for the service": (
        ["GRANT UPDATE (user_hash) ON {partition} TO r1_app"],
        "{partition} is a partition and grants SELECT, column UPDATE to r1_app",
        "alice may UPDATE in {partition}",
    ),
    "a partition not readable by the service": (
        ["REVOKE SELECT ON {hers} FROM r1_app"],
        "{hers} does not grant SELECT to r1_app",
        "alice does not see her rows in {hers}",
    ),
    "a partition without its policy": (
        ["DROP POLICY memory_tenant_isolation_select ON {hers}"],
        "{hers} lacks the policy memory_tenant_isolation_select",
        "alice does not see her rows in {hers}",
    ),
    "a partition readable by a policy that is always true": (
        ["ALTER POLICY memory_tenant_isolation_select ON {partition} USING (true)"],
        "{partition}: the policy memory_tenant_isolation_select is not the one",
        "alice sees bob's rows in {partition}",
    ),
    "a partition without row-level security, as the service sees it": (
        ["ALTER TABLE {partition} DISABLE ROW LEVEL SECURITY"],
        "{partition} lacks ENABLE ROW LEVEL SECURITY",
        "alice sees bob's rows in {partition}",
    ),
    "a guard that says nothing when nobody is bound, at a partition": (
        [QUIET_GUARD],
        "it may not refuse a missing app.user_hash",
        "nobody in particular is answered from {partition}",
    ),
    "two partitions under each other's names": (
        [
            "ALTER TABLE memory_lexical_blocks_p62 RENAME TO memory_lexical_blocks_p99",
            "ALTER TABLE memory_lexical_blocks_p63 RENAME TO memory_lexical_blocks_p62",
            "ALTER TABLE memory_lexical_blocks_p99 RENAME TO memory_lexical_blocks_p63",
        ],
        "memory_lexical_blocks_p62 is memory_lexical_blocks FOR VALUES WITH (modulus 64, remainder 63), which its name",
        None,
    ),
    "a partition granted to staff": (
        ["GRANT SELECT ON {partition} TO r1_staff"],
        "{partition} grants SELECT to r1_staff",
        "staff may read the partition {partition}",
    ),
    "a partition with a policy": (
        ["CREATE POLICY generous ON {partition} USING (true)"],
        "{partition} has an unknown policy generous",
        "the owner sees the partition {partition}",
    ),
    "a partition of a partition without FORCE": (
        [
            "DROP TABLE memory_chunks_p63",
            "CREATE TABLE memory_chunks_p63 PARTITION OF memory_chunks FOR VALUES WITH (MODULUS 64, REMAINDER 63)"
            " PARTITION BY HASH (user_hash)",
            "CREATE TABLE memory_chunks_p63_0 PARTITION OF memory_chunks_p63 FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "ALTER TABLE memory_chunks_p63 ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        ],
        "memory_chunks_p63_0 lacks ENABLE ROW LEVEL SECURITY",
        None,
    ),
    "a new table that nobody told the audit about": (
        ["CREATE TABLE memory_notes (user_hash text, note text)"],
        "memory_notes has a user_hash column but is not known as a tenant table",
        None,
    ),
    "a tenant table that is gone": (
        ["DROP TABLE memory_data_keys CASCADE"],
        "memory_data_keys does not exist",
        None,
    ),
    "a guard that says nothing when nobody is bound": (
        [QUIET_GUARD],
        "it may not refuse a missing app.user_hash",
        "nobody in particular is answered from memory_chunks",
    ),
    "a guard that looks right and answers too early": (
        [
            "CREATE OR REPLACE FUNCTION memory_current_user_hash() RETURNS text LANGUAGE plpgsql STABLE AS $$"
            "DECLARE bound text := pg_catalog.current_setting('app.user_hash', true); BEGIN"
            " IF bound IS NULL THEN RETURN ''; END IF;"
            " IF bound IS NULL OR bound OPERATOR(pg_catalog.!~) '^[0-9a-f]{64}$' THEN"
            " RAISE EXCEPTION 'no tenant' USING ERRCODE = 'insufficient_privilege'; END IF; RETURN bound; END$$"
        ],
        "memory_current_user_hash() is not the one the migrations make",
        None,
    ),
    "a view over everybody's rows for the service": (
        ["CREATE VIEW handy AS SELECT * FROM memory_documents", "GRANT SELECT ON handy TO r1_app"],
        "handy is a view, outside the policies, and grants SELECT to r1_app",
        None,
    ),
    "a view over everybody's rows for everybody": (
        ["CREATE VIEW handy AS SELECT * FROM memory_documents", "GRANT SELECT ON handy TO PUBLIC"],
        "handy grants SELECT to PUBLIC",
        None,
    ),
    "a function with its definer's rights": (
        [
            "CREATE FUNCTION handy() RETURNS SETOF memory_documents LANGUAGE sql SECURITY DEFINER"
            " AS 'SELECT * FROM memory_documents'"
        ],
        "handy() is SECURITY DEFINER",
        None,
    ),
    "a service that may make tables": (
        ["GRANT CREATE ON SCHEMA public TO r1_app"],
        "the service may CREATE in the schema public",
        None,
    ),
    "a service that may pass its rights on": (
        ["GRANT SELECT ON memory_chunks TO r1_app WITH GRANT OPTION"],
        "memory_chunks lets r1_app pass on SELECT",
        None,
    ),
    "a service that may write spaces": (
        ["GRANT UPDATE ON memory_spaces TO r1_app"],
        "memory_spaces grants UPDATE to r1_app",
        None,
    ),
    "staff that is a superuser": (
        ["ALTER ROLE r1_staff SUPERUSER"],
        "r1_staff exists, a superuser",
        None,
    ),
    "a metadata view in other hands": (
        ["ALTER VIEW memory_chunks_meta OWNER TO r1_owner"],
        "memory_chunks_meta belongs to r1_owner instead of r1_backup",
        None,
    ),
    "a trigger on a tenant table": (
        [
            "CREATE FUNCTION handy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER copies BEFORE INSERT ON memory_documents FOR EACH ROW EXECUTE FUNCTION handy()",
        ],
        "memory_documents has the trigger copies",
        None,
    ),
    "a trigger that lets retired master keys pass": (
        ["CREATE OR REPLACE FUNCTION memory_refuse_retired_master_key() RETURNS trigger"
         " LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"],
        "memory_data_keys has the trigger memory_data_keys_not_retired, which is not one",
        None,
    ),
    "a trigger too few": (
        ["DROP TRIGGER memory_search_keys_not_retired ON memory_search_keys"],
        "memory_search_keys lacks the trigger memory_search_keys_not_retired",
        None,
    ),
    "a trigger that does nothing": (
        ["ALTER TABLE memory_data_keys DISABLE TRIGGER memory_data_keys_not_retired"],
        "memory_data_keys lacks the trigger memory_data_keys_not_retired",
        None,
    ),
    "a service that starts every session bound to somebody": (
        ["ALTER ROLE r1_app SET app.user_hash = 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff'"],
        "the service's sessions start with app.user_hash set",
        None,
    ),
    "everybody's rows in another schema": (
        [
            "CREATE SCHEMA elsewhere",
            "CREATE TABLE elsewhere.copies AS TABLE memory_chunks",
            "GRANT USAGE ON SCHEMA elsewhere TO r1_app",
            "GRANT SELECT ON elsewhere.copies TO r1_app",
        ],
        "the service can reach elsewhere.copies",
        None,
    ),
    "a function with its definer's rights in another schema": (
        [
            "CREATE SCHEMA elsewhere",
            "CREATE FUNCTION elsewhere.handy() RETURNS bigint LANGUAGE sql SECURITY DEFINER"
            " AS 'SELECT count(*) FROM public.memory_chunks'",
        ],
        "handy() is SECURITY DEFINER",
        None,
    ),
    "a metadata view with a sealed column": (
        ["CREATE OR REPLACE VIEW memory_data_keys_meta AS"
         " SELECT user_hash, generation, key_id, seal_count, created_at, user_hash || '.' || generation AS key,"
         " sealed_key FROM memory_data_keys"],
        "memory_data_keys_meta is a view and shows sealed_key",
        None,
    ),
    "a rule that copies rows": (
        ["CREATE TABLE spy (doc_id text)",
         "CREATE RULE copies AS ON INSERT TO memory_documents DO ALSO INSERT INTO spy VALUES (NEW.doc_id)"],
        "memory_documents has the rule copies",
        None,
    ),
    "a table that takes any name for a user": (
        ["ALTER TABLE memory_documents DROP CONSTRAINT memory_documents_user_hash_hex"],
        "memory_documents does not CHECK that user_hash is 64 hex digits",
        None,
    ),
    "a partition too few": (
        ["DROP TABLE memory_chunks_p07"],
        "memory_chunks has 63 partitions instead of 64",
        None,
    ),
    "a role with no part in this": (
        ["CREATE ROLE r1_scratch_middle", "GRANT SELECT ON memory_documents TO r1_scratch_middle"],
        "memory_documents grants SELECT to r1_scratch_middle, a role with no part in this",
        None,
    ),
    "an immutable guard": (
        ["ALTER FUNCTION memory_current_user_hash() IMMUTABLE"],
        "memory_current_user_hash() is not STABLE",
        None,
    ),
    "a volatile guard": (
        ["ALTER FUNCTION memory_current_user_hash() VOLATILE"],
        "memory_current_user_hash() is not STABLE",
        None,
    ),
    "a guard with its definer's rights": (
        ["ALTER FUNCTION memory_current_user_hash() SECURITY DEFINER"],
        "memory_current_user_hash() is SECURITY DEFINER",
        None,
    ),
    "a guard that the service owns": (
        ["ALTER FUNCTION memory_current_user_hash() OWNER TO r1_app"],
        "memory_current_user_hash() belongs to r1_app",
        None,
    ),
    "no guard at all": (
        ["DROP FUNCTION memory_current_user_hash() CASCADE"],
        "memory_current_user_hash() does not exist",
        "alice does not see her memory_chunks",
    ),
    "a service that is a superuser": (
        ["ALTER ROLE r1_app SUPERUSER"],
        "r1_app, a superuser",
        "alice sees bob's memory_chunks",
    ),
    "a service with BYPASSRLS": (
        ["ALTER ROLE r1_app BYPASSRLS"],
        "r1_app, which has BYPASSRLS",
        "alice sees bob's memory_chunks",
    ),
    "a service that may make roles": (
        ["ALTER ROLE r1_app CREATEROLE"],
        "may create roles or replicate",
        None,
    ),
    "a service that may replicate": (
        ["ALTER ROLE r1_app REPLICATION"],
        "may create roles or replicate",
        None,
    ),
    "a service that may become r1_maint": (
        ["GRANT r1_maint TO r1_app"],
        "r1_app, a member of r1_maint",
        None,
    ),
    "a service that may become a role nobody knows": (
        ["CREATE ROLE r1_scratch_middle", "GRANT r1_scratch_middle TO r1_app"],
        "r1_app, a member of r1_scratch_middle",
        None,
    ),
}  # fmt: skip


@pytest.fixture
def mutation(house, request) -> tuple[list[str], str, str | None]:
    """The mutation with a partition of bob's in place of `{partition}`, and one of alice's in that of `{hers}`."""
    with house.scratch.connect() as superuser:
        [partition], [hers] = (
            superuser.execute(HELD, [person.user_hash]).fetchone() for person in (house.bob, house.alice)
        )

    def filled(text: str) -> str:
        return text.replace("{partition}", partition).replace("{hers}", hers)

    statements, mention, symptom = MUTATIONS[request.param]
    return [filled(statement) for statement in statements], filled(mention), symptom and filled(symptom)


@pytest.mark.parametrize("mutation", MUTATIONS, indirect=True)
def test_the_audit_names_what_is_broken(house, mutation):
    statements, mention, _ = mutation
    with broken(house, *statements) as superuser:
        assert [finding for finding in findings(superuser) if mention in finding], findings(superuser)


@pytest.mark.parametrize("mutation", [name for name, (_, _, symptom) in MUTATIONS.items() if symptom], indirect=True)
def test_what_is_broken_can_be_felt_and_not_only_read_in_the_catalogue(house, mutation):
    statements, _, symptom = mutation
    with broken(house, *statements) as superuser:
        assert symptom in breaches(superuser, house)


def test_a_database_that_is_not_migrated_yet_is_told_so_and_not_partition_by_partition(house):
    with broken(house, (SQL_FOLDER / "0025_partition_reads.down.sql").read_text()) as superuser:
        assert findings(superuser) == [
            "no partition has a policy, so that none can be read by its name; run migrate",
            "no partition grants SELECT to r1_app; run migrate",
        ]


@pytest.mark.parametrize("role", ["r1_owner", "r1_staff", "r1_maint", "r1_backup", "postgres"])
def test_any_role_but_the_services_own_is_found_wanting(house, role):
    with house.scratch.connect(role) as connection:
        found = verify_rls_isolation(connection)
    assert f"the service runs as {role}; the policies are for r1_app" in found
    expected = {
        "r1_owner": "the owner of memory_chunks", "r1_maint": "BYPASSRLS", "r1_backup": "BYPASSRLS",
        "postgres": "a superuser", "r1_staff": "",
    }  # fmt: skip
    assert any(expected[role] in finding for finding in found)


# What deploy/postgres/roles.sql makes, changed by hand. (statement) -> what the audit says.
CHANGED_ROLES = {
    "ALTER ROLE r1_app RESET statement_timeout": "r1_app lacks the setting statement_timeout = 5s",
    "ALTER ROLE r1_app SET statement_timeout = 0": "r1_app has the setting statement_timeout = 0 instead of 5s",
    "ALTER ROLE r1_app SET enable_seqscan = on": "r1_app has the setting enable_seqscan = on instead of off",
    "ALTER ROLE r1_app RESET plan_cache_mode": "r1_app lacks the setting plan_cache_mode = force_custom_plan",
    "ALTER ROLE r1_app SET work_mem = '1GB'": "r1_app has the setting work_mem = 1GB, which roles.sql does not make",
    "ALTER ROLE r1_staff RESET lock_timeout": "r1_staff lacks the setting lock_timeout = 1500ms",
    "ALTER ROLE r1_backup RESET ALL": "r1_backup lacks the setting default_transaction_read_only = on",
    "ALTER ROLE r1_app IN DATABASE {database} SET statement_timeout = 0":
        "r1_app in this database has the setting statement_timeout = 0",
    "ALTER DATABASE {database} SET session_preload_libraries = 'auto_explain'":
        "everybody in this database has the setting session_preload_libraries = auto_explain",
    "ALTER ROLE r1_maint SET search_path = evil, public":
        "r1_maint has the setting search_path = evil, public instead of public",
    "ALTER ROLE r1_app RESET search_path": "r1_app lacks the setting search_path = public",
    "GRANT TEMPORARY ON DATABASE {database} TO r1_app": "r1_app may make TEMPORARY tables in the database",
    "GRANT TEMPORARY ON DATABASE {database} TO PUBLIC": "r1_app may make TEMPORARY tables in the database",
    "GRANT CREATE ON DATABASE {database} TO r1_staff": "r1_staff may CREATE in the database",
    "GRANT CREATE ON SCHEMA public TO r1_maint": "r1_maint may CREATE in the schema public",
    "GRANT CREATE ON SCHEMA public TO PUBLIC": "PUBLIC may CREATE in the schema public",
    "GRANT CREATE ON SCHEMA public TO r1_scratch_middle": "r1_scratch_middle may CREATE in the schema public",
    "GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC": "the service may use large objects",
    "GRANT EXECUTE ON FUNCTION lo_import(text) TO r1_app": "which no policy guards (lo_import)",
    "GRANT r1_maint TO r1_scratch_middle": "r1_scratch_middle is a member of r1_maint",
    "GRANT r1_app TO r1_scratch_middle": "r1_scratch_middle is a member of r1_app",
    "GRANT r1_maint TO r1_owner": "r1_owner is a member of r1_maint",
    "GRANT pg_read_all_data TO r1_maint": "r1_maint is a member of pg_read_all_data",
}  # fmt: skip
# Of those a worker, too, takes notice: they say which tables, or whose rows, its statements mean.
CHANGED_SETTINGS_THAT_STOP = {
    "ALTER ROLE r1_app SET search_path = evil, public": "the service's sessions start with search_path = evil, public",
    "ALTER ROLE r1_app IN DATABASE {database} SET search_path = evil": "sessions start with search_path = evil",
    "ALTER ROLE r1_app SET row_security = off": "the service's sessions start with row_security = off",
    "ALTER ROLE r1_app SET role = r1_maint": "the service's sessions start with role = r1_maint",
    "ALTER ROLE r1_app SET session_replication_role = replica": "start with session_replication_role = replica",
    "ALTER DATABASE {database} SET app.user_hash = 'f'": "the service's sessions start with app.user_hash set",
    "ALTER DATABASE {database} SET session_replication_role = replica":
        "everybody's sessions start with session_replication_role = replica",
}  # fmt: skip


@contextmanager
def changed_role(house: House, statement: str) -> Iterator[psycopg.Connection]:
    statement = statement.replace("{database}", house.scratch.name)
    with broken(house, "CREATE ROLE r1_scratch_middle", statement) as superuser:
        yield superuser


@pytest.mark.parametrize("statement", CHANGED_ROLES | CHANGED_SETTINGS_THAT_STOP)
def test_the_audit_names_what_was_changed_beside_the_tables(house, statement):
    mention = (CHANGED_ROLES | CHANGED_SETTINGS_THAT_STOP)[statement]
    with changed_role(house, statement) as superuser:
        found = findings(superuser)
    assert [finding for finding in found if mention in finding], found
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("statement", CHANGED_ROLES | CHANGED_SETTINGS_THAT_STOP)
def test_a_worker_does_not_start_with_settings_that_change_whose_rows_are_meant_and_starts_with_others(
    house, statement, not_verified_yet
):
    with changed_role(house, statement) as superuser:
        superuser.execute("SET LOCAL ROLE r1_app")
        if statement in CHANGED_SETTINGS_THAT_STOP or statement == "GRANT CREATE ON SCHEMA public TO PUBLIC":
            with pytest.raises(UnsafeDatabase):
                rls_audit.require_safe_database(superuser)
        else:
            rls_audit.require_safe_database(superuser)


def test_a_role_that_was_made_by_an_administrator_has_its_maker_for_a_member_and_that_is_no_finding(house):
    """PostgreSQL 16 and later: ADMIN, without the right to become the role or to inherit from it."""
    grant = "GRANT r1_app TO r1_scratch_middle WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
    with changed_role(house, grant) as superuser:
        assert findings(superuser) == []


def test_the_audit_expects_the_settings_that_roles_sql_makes():
    made: dict[str, dict[str, str]] = {}
    for role, name, value in re.findall(r"^ALTER ROLE (\w+) SET (\w+) = (.+);$", ROLES_FILE.read_text(), re.MULTILINE):
        made.setdefault(role, {})[name] = value.strip("'")
    assert made == ROLE_SETTINGS


def test_the_service_can_make_no_large_object(house):
    with house.scratch.connect("r1_app") as app:
        for call in (
            "lo_create(0)", "lo_creat(-1)", "lo_from_bytea(0, 'x')", "lo_put(1, 0, 'x')", "lo_get(1)", "lo_open(1, 1)",
            "lo_unlink(1)", "lo_import('/etc/hostname')", "lo_export(1, '/dev/null')",
        ):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
                app.execute(f"SELECT {call}")


def test_after_all_that_the_audit_still_finds_nothing(house):
    with house.scratch.connect("r1_app") as app:
        assert verify_rls_isolation(app) == []


# -- The probe with two users, the system check and the door itself, with the breach really there


@contextmanager
def really_broken(house: House, statement: str, undo: str) -> Iterator[None]:
    """`statement` committed in the scratch database, which Django's `default` is meanwhile; `undo` afterwards."""
    with house.scratch.connect() as superuser, house.scratch.as_alias("default"):
        superuser.execute(statement)
        try:
            yield
        finally:
            superuser.execute(undo)


def guard_as_it_is(house: House) -> str:
    with house.scratch.connect() as superuser:
        return superuser.execute("SELECT pg_get_functiondef('memory_current_user_hash()'::regprocedure)").fetchone()[0]


GENEROUS = ("CREATE POLICY generous ON memory_tenants USING (true)", "DROP POLICY generous ON memory_tenants")
UNFORCED = tuple(f"ALTER TABLE memory_documents {way} ROW LEVEL SECURITY" for way in ("NO FORCE", "FORCE"))
BLIND = (
    "DROP POLICY memory_tenant_isolation_select ON memory_tenants",
    "CREATE POLICY memory_tenant_isolation_select ON memory_tenants FOR SELECT TO r1_app"
    " USING (user_hash = (SELECT memory_current_user_hash()))",
)


def test_two_users_cannot_reach_each_other(house):
    with house.scratch.as_alias("default"):
        assert probe_two_users() == []


def test_the_probe_feels_a_generous_policy_in_every_command(house):
    with really_broken(house, *GENEROUS):
        assert set(probe_two_users()) >= {
            "a user sees another user's row",
            "a user can UPDATE another user's row",
            "a user can DELETE another user's row",
            "a user can INSERT a row for another user",
            "a statement with no tenant bound was answered",
        }
    with house.scratch.as_alias("default"):
        assert probe_two_users() == []


def test_the_probe_feels_a_guard_that_says_nothing(house):
    with really_broken(house, QUIET_GUARD, guard_as_it_is(house)):
        assert probe_two_users() == ["a statement with no tenant bound was answered"]


def test_the_probe_does_not_take_an_empty_table_for_isolation(house):
    with really_broken(house, *BLIND):
        assert "a user does not see the row they just wrote: the probe proves nothing" in probe_two_users()


def test_the_probe_leaves_no_row_behind(house):
    count = "SELECT count(*) FROM memory_tenants"
    with house.scratch.connect() as superuser, house.scratch.as_alias("default"):
        before = superuser.execute(count).fetchone()
        assert before > (0,)
        probe_two_users()
        assert superuser.execute(count).fetchone() == before


@pytest.fixture
def not_verified_yet(monkeypatch):
    """A process that has just started: no database counts as verified."""
    monkeypatch.setattr(rls_audit, "_verified_databases", set())


def test_the_system_check_reports_what_the_audit_finds(house, not_verified_yet):
    with really_broken(house, *UNFORCED):
        [error] = database_keeps_tenants_apart(None, databases=["default"])
        assert (error.id, error.msg) == ("memory.E003", "memory_documents lacks FORCE ROW LEVEL SECURITY")
        assert database_keeps_tenants_apart(None, databases=["owner"]) == []
    with house.scratch.as_alias("default"):
        assert database_keeps_tenants_apart(None, databases=["default"]) == []


def test_no_tenant_transaction_opens_on_an_unsafe_database(house, not_verified_yet):
    with really_broken(house, *UNFORCED):
        for _ in range(2):
            with pytest.raises(UnsafeDatabase) as refusal, rls.tenant_transaction(house.alice.user_hash):
                pytest.fail("the block must not run")
            assert refusal.value.findings == ["memory_documents lacks FORCE ROW LEVEL SECURITY"]
    with house.scratch.as_alias("default"), rls.tenant_transaction(house.alice.user_hash) as tx:
        assert tx.execute("SELECT count(*) FROM memory_documents").fetchone() == (3,)


def test_a_migration_that_lifts_force_sees_every_row_and_one_that_does_not_sees_none(house):
    """Why a data-moving migration must lift it, and under `row_security = off`: the silent zero is an error then."""
    count = "SELECT count(*) FROM memory_documents"
    with house.scratch.connect("r1_owner") as owner:
        assert owner.execute(count).fetchone() == (0,)
        with owner.transaction(force_rollback=True):
            owner.execute("SET LOCAL row_security = off")
            with pytest.raises(errors.InsufficientPrivilege), owner.transaction():
                owner.execute(count)
            owner.execute(UNFORCED[0])
            assert owner.execute(count).fetchone() == (6,)
        assert owner.execute(count).fetchone() == (0,)


# -- The reset


@pytest.fixture
def a_pool_to_throw_away(database):
    """The pool of `default` is closed afterwards: its connections may remember somebody."""
    yield
    connections["default"].close()
    connections["default"].close_pool()


def leaked_to_nobody() -> list[str]:
    """Documents that a statement with nobody bound is shown on any connection of the pool."""
    leaked = []
    connections["default"].close()
    for _ in range(connections["default"].pool.get_stats()["pool_size"]):
        try:
            leaked += Document.objects.values_list("doc_id", flat=True)
        except ProgrammingError as exc:
            assert "no tenant is bound" in str(exc)
        connections["default"].close()
    return leaked


FOR_THE_SESSION = "SELECT set_config('app.user_hash', %s, false)"


@pytest.mark.parametrize("is_request", [True, False], ids=["request", "command"])
@pytest.mark.parametrize(("statement", "leak"), [(rls.SET_CONTEXT, []), (FOR_THE_SESSION, ["secret"])])
def test_a_setting_that_outlives_its_transaction_leaks_and_is_noticed(
    monkeypatch, a_pool_to_throw_away, statement, leak, is_request
):
    person = Person.new("alice")
    remember(person, "secret")
    monkeypatch.setattr(rls, "SET_CONTEXT", statement)
    with within_a_request() if is_request else nullcontext(), rls.tenant_transaction(person.user_hash) as tx:
        assert tx.execute("SELECT doc_id FROM memory_documents").fetchall() == [("secret",)]
    # A pool of several connections may lend the one that leaks more than once.
    assert set(leaked_to_nobody()) == set(leak)
