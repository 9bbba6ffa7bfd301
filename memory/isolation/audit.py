"""Does this database keep tenants apart? The catalogue against what the migrations promise.

Pure SQL over pg_catalog, readable by any role. `verify_rls_isolation()` returns findings as
sentences; an empty list means every table, partition, policy, grant and role is as expected.

Longer than 250 lines on purpose: each thing that is expected stands beside the statement that looks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.errors import UnsafeDatabase
from memory.isolation.catalogue import read_catalogue, read_indexes
from memory.isolation.connection import Row
from memory.isolation.own_index import own_index_of
from memory.isolation.partitions import PARTITIONED_TABLES, PARTITIONS, partition_name
from memory.isolation.role_audit import OUR_ROLES, stopping_setting_findings, verify_roles
from memory.migrations._sqlfile import SQL_FOLDER

# A Django connection, or psycopg's own.
AnyConnection = BaseDatabaseWrapper | psycopg.Connection[Any]

APP_ROLE = "r1_app"
TENANT_TABLES = (
    "memory_chunks",
    "memory_data_keys",
    "memory_document_sources",
    "memory_documents",
    "memory_erasures",
    "memory_idempotency",
    "memory_lexical_blocks",
    "memory_lexical_chunks",
    "memory_lexical_segments",
    "memory_moved_documents",
    "memory_moves",
    "memory_rate_buckets",
    "memory_search_keys",
    "memory_tenants",
)
APP_PRIVILEGES = {"SELECT", "INSERT", "UPDATE", "DELETE"}
PARTITION_PRIVILEGES = {"SELECT"}
# What is written there stays as it was written.
APPEND_ONLY_TABLES = ("memory_erasures",)
# VACUUM, from PostgreSQL 17 on: a privilege that gives no row away.
APP_MAY_MAINTAIN = ("memory_data_keys", "memory_search_keys")
# Everything r1_app may do in the schema; whatever is not here, it may not touch.
APP_MAY = {
    **{table: APP_PRIVILEGES for table in TENANT_TABLES},
    **{table: {"SELECT", "INSERT"} for table in APPEND_ONLY_TABLES},
    "memory_key_changes": {"SELECT", "INSERT", "column UPDATE"},
    "memory_workers": APP_PRIVILEGES,
    **{table: {"SELECT"} for table in ("memory_spaces", "memory_flags", "memory_master_keys", "django_migrations")},
}
STAFF_VIEWS = (
    "memory_chunks_meta",
    "memory_data_keys_meta",
    "memory_documents_meta",
    "memory_erasures_meta",
    "memory_moves_meta",
    "memory_search_keys_meta",
    "memory_tenants_meta",
)
SEALED_COLUMNS = {"embedding", "sealed_key", "content_mac"}
GUARD = "memory_current_user_hash"
_RETIRED, _CHAINED, _KEPT = ("0018_retired_keys", "$retired$"), ("0023_audit", "$chain$"), ("0023_audit", "$refuse$")
# name -> (table, where its function stands, what happens without it).
TRIGGERS = {
    "memory_data_keys_not_retired": ("memory_data_keys", _RETIRED, "it would take keys under a retired master key"),
    "memory_search_keys_not_retired": ("memory_search_keys", _RETIRED, "it would take keys under a retired master key"),
    "memory_audit_is_chained": ("memory_audit", _CHAINED, "its lines would hang together by nothing"),
    "memory_audit_is_kept": ("memory_audit", _KEPT, "its lines could be changed"),
}

_TENANT_TEST = f"(user_hash = ( SELECT {GUARD}() AS {GUARD}))"
# name suffix -> (pg_policy.polcmd, USING, WITH CHECK)
POLICIES = {
    "select": ("r", _TENANT_TEST, None),
    "insert": ("a", None, _TENANT_TEST),
    "update": ("w", _TENANT_TEST, _TENANT_TEST),
    "delete": ("d", _TENANT_TEST, None),
}


def verify_rls_isolation(conn: AnyConnection) -> list[str]:
    """Every way in which this database falls short of isolation, as sentences; [] when there is none.

    `conn` is a Django or psycopg connection of the role to be judged, which must be the service's.
    """
    found = read_catalogue(conn)
    return [
        *_isolation_findings(found),
        *_missing_trigger_findings(found["triggers"]),
        *_index_findings(read_indexes(conn)),
        *verify_roles(conn),
    ]


def _isolation_findings(found: dict[str, list[Row]]) -> list[str]:
    """What the service does not start with: somebody could reach rows that are another's."""
    service = next((name for name, is_service, *_ in found["roles"] if is_service), APP_ROLE)
    return [
        *_role_findings(found["roles"], found["tables"]),
        *_schema_findings(found["schema"]),
        *_table_findings(found["tables"]),
        *_partition_findings(found["partitions"]),
        *_policy_findings(found["tables"], found["policies"]),
        *_view_findings(found["views"]),
        *_grant_findings(found["tables"], found["views"], found["grants"]),
        *_function_findings(found["functions"]),
        *_sealed_column_findings(found["columns"]),
        *_hex_findings(found["hex_checks"]),
        *_trigger_findings(found["triggers"]),
        *(f"{table} has the rule {name}; the migrations make none" for table, name in found["rules"]),
        *(f"the service can reach {schema}.{name}, outside schema public" for schema, name in found["elsewhere"]),
        *stopping_setting_findings(found["role_settings"], service),
    ]


def _role_findings(roles: list[Row], tables: list[Row]) -> Iterator[str]:
    for name, is_service, superuser, bypass, creates_roles, member_of in roles:
        who = f"the service runs as {name}" if is_service else f"{name} exists"
        if superuser:
            yield f"{who}, a superuser: row-level security does not apply to it"
        if bypass:
            yield f"{who}, which has BYPASSRLS"
        if creates_roles:
            yield f"{who}, which may create roles or replicate"
        if member_of:
            yield f"{who}, a member of {', '.join(member_of)}"
        if is_service and (owned := [table for table, _, _, _, owner, _ in tables if owner == name]):
            yield f"{who}, the owner of {', '.join(owned)}"
        if is_service and name != APP_ROLE:
            yield f"{who}; the policies are for {APP_ROLE}"


def _schema_findings(rows: list[Row]) -> Iterator[str]:
    in_schema, in_database = rows[0]
    if in_schema or in_database:
        yield f"the service may CREATE in the {'schema public' if in_schema else 'database'}"


def _table_findings(tables: list[Row]) -> Iterator[str]:
    parents = {table for table, _, _, _, _, parent in tables if parent is None}
    for table in sorted(set(TENANT_TABLES) - parents):
        yield f"{table} does not exist; run migrate"
    for table in sorted(parents - set(TENANT_TABLES)):
        yield f"{table} has a user_hash column but is not known as a tenant table"
    for table in TENANT_TABLES:
        partitions = sum(1 for *_, parent in tables if parent == table)
        wanted = PARTITIONS if table in PARTITIONED_TABLES else 0
        if partitions != wanted:
            yield f"{table} has {partitions} partitions instead of {wanted}: some users' rows have no place"
    for table, _, enabled, forced, _, _ in tables:
        if not (enabled and forced):
            yield f"{table} lacks {'FORCE' if enabled else 'ENABLE'} ROW LEVEL SECURITY"


def _partition_findings(partitions: list[Row]) -> Iterator[str]:
    """A search goes by the partition's name: under another's it would find nothing."""
    named = {
        (table, partition_name(table, number)): f"FOR VALUES WITH (modulus {PARTITIONS}, remainder {number})"
        for table in PARTITIONED_TABLES
        for number in range(PARTITIONS)
    }
    for table, partition, bound in partitions:
        if table in PARTITIONED_TABLES and named.get((table, partition)) != bound:
            yield f"{partition} is {table} {bound}, which its name does not say: searches of its users find nothing"


def _policy_findings(tables: list[Row], policies: list[Row]) -> Iterator[str]:
    found: dict[str, dict[str, list[Any]]] = {}
    for table, name, *policy in policies:
        found.setdefault(table, {})[name] = policy
    # A partition is read by its name, and written through its table.
    expected = {table: ("select",) for table, _, _, _, _, parent in tables if parent is not None}
    if expected.keys() and not expected.keys() & found.keys():
        yield "no partition has a policy, so that none can be read by its name; run migrate"
        expected = {}
    for table, suffixes in (dict.fromkeys(TENANT_TABLES, tuple(POLICIES)) | expected).items():
        present = dict(found.get(table, {}))
        for suffix in suffixes:
            command, using, check = POLICIES[suffix]
            name = f"memory_tenant_isolation_{suffix}"
            found_policy = present.pop(name, None)
            if found_policy is None:
                yield f"{table} lacks the policy {name}"
            elif found_policy != [command, True, [APP_ROLE], using, check]:
                yield f"{table}: the policy {name} is not the one the migrations make"
        for name in present:
            yield f"{table} has an unknown policy {name}: permissive policies add up"


def _view_findings(views: list[Row]) -> Iterator[str]:
    owners: dict[str, str] = dict(views)
    for view in STAFF_VIEWS:
        if owners.get(view, "r1_backup") != "r1_backup":
            yield f"{view} belongs to {owners[view]} instead of r1_backup"


def _sealed_column_findings(columns: list[Row]) -> Iterator[str]:
    for view, names in columns:
        sealed = sorted(name for name in names if name.endswith("_cipher") or name in SEALED_COLUMNS)
        if sealed:
            yield f"{view} is a view and shows {', '.join(sealed)}"


def _hex_findings(checks: list[Row]) -> Iterator[str]:
    held: dict[str, str] = dict(checks)
    for table in TENANT_TABLES:
        if "'^[0-9a-f]{64}$'" not in held.get(table, ""):
            yield f"{table} does not CHECK that user_hash is 64 hex digits"


def _grant_findings(tables: list[Row], views: list[Row], grants: list[Row]) -> Iterator[str]:
    partitions = {table for table, _, _, _, _, parent in tables if parent is not None}
    view_names = {view for view, _ in views}
    held: dict[tuple[str, str], set[str]] = {}
    for relation, grantee, privilege, grantable in grants:
        held.setdefault((relation, grantee), set()).add(privilege)
        if grantable and grantee == APP_ROLE:
            yield f"{relation} lets {APP_ROLE} pass on {privilege}"
    for table in APPEND_ONLY_TABLES:
        for changing in sorted({"UPDATE", "column UPDATE"} & held.get((table, "r1_maint"), set())):
            yield f"{table} is append-only and grants {changing} to r1_maint"
    for (relation, grantee), privileges in held.items():
        words = ", ".join(sorted(privileges))
        if grantee == "public":
            yield f"{relation} grants {words} to PUBLIC"
        elif grantee == APP_ROLE and relation in partitions and privileges - PARTITION_PRIVILEGES:
            yield f"{relation} is a partition and grants {words} to {APP_ROLE}"
        elif grantee == APP_ROLE and relation in view_names:
            yield f"{relation} is a view, outside the policies, and grants {words} to {APP_ROLE}"
        elif grantee == APP_ROLE and relation not in partitions and (extra := privileges - _app_may(relation)):
            yield f"{relation} grants {', '.join(sorted(extra))} to {APP_ROLE}"
        elif grantee == "r1_staff" and (relation in TENANT_TABLES or relation in partitions):
            yield f"{relation} grants {words} to r1_staff, who may read metadata views only"
        elif relation.startswith("memory") and grantee not in OUR_ROLES:
            yield f"{relation} grants {words} to {grantee}, a role with no part in this"
    needed = {table: APP_MAY[table] for table in TENANT_TABLES}
    if partitions and not any((partition, APP_ROLE) in held for partition in partitions):
        yield f"no partition grants SELECT to {APP_ROLE}; run migrate"
    else:
        needed |= dict.fromkeys(sorted(partitions), PARTITION_PRIVILEGES)
    for table, privileges in needed.items():
        missing = privileges - held.get((table, APP_ROLE), set())
        if missing:
            yield f"{table} does not grant {', '.join(sorted(missing))} to {APP_ROLE}"


def _app_may(relation: str) -> set[str]:
    return APP_MAY.get(relation, set()) | ({"MAINTAIN"} if relation in APP_MAY_MAINTAIN else set())


def _index_findings(indexes: list[Row]) -> Iterator[str]:
    """What no migration makes and is no user's own: its order and its cost could tell one user of another."""
    made = _indexes_made()
    for table, name, definition, is_valid in indexes:
        is_gone = definition is None
        if not is_gone and name not in made and own_index_of(name, table, definition, is_valid) is None:
            yield f"{table} has the index {name}, which neither the migrations nor `maintain_indexes` make"


@lru_cache(maxsize=1)
def _indexes_made() -> frozenset[str]:
    made = (re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)", path.read_text()) for path in SQL_FOLDER.glob("*.up.sql"))
    return frozenset(name for names in made for name in names)


def _trigger_findings(triggers: list[Row]) -> Iterator[str]:
    for table, name, source, _ in triggers:
        known, place, _ = TRIGGERS.get(name, (None, _RETIRED, ""))
        if known != table or _words(source) != _source(*place):
            yield f"{table} has the trigger {name}, which is not one that the migrations make"


def _missing_trigger_findings(triggers: list[Row]) -> Iterator[str]:
    """Not for isolation: what the triggers keep would be lost without them."""
    enabled = {name for _, name, _, state in triggers if state in "OA"}
    for name, (table, _, without) in TRIGGERS.items():
        if name not in enabled:
            yield f"{table} lacks the trigger {name}: {without}"


def _function_findings(functions: list[Row]) -> Iterator[str]:
    guards = [rest for name, *rest in functions if name == GUARD and rest[-1] == "public"]
    if not guards:
        yield f"the guard function {GUARD}() does not exist"
    for volatility, _, source, owner, _ in guards:
        if volatility != "s":
            yield f"{GUARD}() is not STABLE"
        if owner == APP_ROLE:
            yield f"{GUARD}() belongs to {APP_ROLE}"
        if _words(source) != _source("0001_guard", "$guard$"):
            yield f"{GUARD}() is not the one the migrations make: it may not refuse a missing app.user_hash"
    for name, _, definer, _, _, _ in functions:
        if definer:
            yield f"{name}() is SECURITY DEFINER: it would run with its owner's rights"


@lru_cache(maxsize=4)
def _source(migration: str, quote: str) -> str:
    return _words((SQL_FOLDER / f"{migration}.up.sql").read_text().split(quote)[1])


def _words(text: str) -> str:
    return " ".join(text.split())


_verified_databases: set[Row] = set()


def require_safe_database(connection: AnyConnection) -> None:
    """Verify this connection's database once a process, before its first tenant transaction.

    `connection` is a Django or psycopg one. Raises UnsafeDatabase with findings; a database that
    cannot be reached raises its own error and is asked again next time, so an outage at start-up
    neither passes unverified nor is final.
    """
    database = _database_of(connection)
    if database in _verified_databases:
        return
    findings = _isolation_findings(read_catalogue(connection))
    if findings:
        raise UnsafeDatabase(findings)
    _verified_databases.add(database)


def require_safe_server(info: psycopg.ConnectionInfo) -> None:
    """`require_safe_database` for an asynchronous connection's `info`, on a connection of its own."""
    if _named(info) not in _verified_databases:
        with psycopg.connect(info.dsn, password=info.password or None, autocommit=True) as connection:
            require_safe_database(connection)


def _database_of(connection: AnyConnection) -> Row:
    """Server, port, name and role: what `_verified_databases` knows a database by."""
    if isinstance(connection, psycopg.Connection):
        return _named(connection.info)
    params = connection.settings_dict
    return params["HOST"], str(params["PORT"] or ""), params["NAME"], params["USER"]


def _named(info: psycopg.ConnectionInfo) -> Row:
    return info.host, str(info.port), info.dbname, info.user
