"""Does this database keep tenants apart? The catalogue against what the migrations promise.

Pure SQL over pg_catalog, readable by any role. `verify_rls_isolation()` returns findings as
sentences; an empty list means every table, partition, policy, grant and role is as expected.
"""

from __future__ import annotations

import re

from memory.errors import UnsafeDatabase

APP_ROLE = "r1_app"
TENANT_TABLES = (
    "memory_chunks",
    "memory_data_keys",
    "memory_documents",
    "memory_lexical_blocks",
    "memory_lexical_chunks",
    "memory_lexical_segments",
    "memory_tenants",
)
APP_PRIVILEGES = {"SELECT", "INSERT", "UPDATE", "DELETE"}
STAFF_VIEWS = ("memory_chunks_meta", "memory_data_keys_meta", "memory_documents_meta", "memory_tenants_meta")

_TENANT_TEST = "(user_hash = ( SELECT memory_current_user_hash() AS memory_current_user_hash))"
# name suffix -> (pg_policy.polcmd, USING, WITH CHECK)
POLICIES = {
    "select": ("r", _TENANT_TEST, None),
    "insert": ("a", None, _TENANT_TEST),
    "update": ("w", _TENANT_TEST, _TENANT_TEST),
    "delete": ("d", _TENANT_TEST, None),
}
_GUARD_REFUSES = re.compile(r"bound IS NULL OR bound .*\^\[0-9a-f\]\{64\}\$'\s+THEN\s+RAISE EXCEPTION", re.S)

_ROLE = """
SELECT r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication, r.rolcanlogin,
       (SELECT array_agg(g.rolname::text ORDER BY g.rolname) FROM pg_auth_members m
        JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)
FROM pg_roles r WHERE r.rolname = current_user"""

_TABLES = """
SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text,
       (SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid)
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'm')
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_hash' AND NOT a.attisdropped)
ORDER BY c.relname"""

_POLICIES = """
SELECT c.relname, p.polname, p.polcmd::text, p.polpermissive,
       ARRAY(SELECT CASE WHEN r = 0 THEN 'public' ELSE r::regrole::text END FROM unnest(p.polroles) r),
       pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
WHERE c.relnamespace = 'public'::regnamespace ORDER BY c.relname, p.polname"""

_GRANTS = """
SELECT c.relname, CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END, a.privilege_type
FROM pg_class c, LATERAL aclexplode(c.relacl) a
WHERE c.relnamespace = 'public'::regnamespace AND c.relname LIKE 'memory%'
UNION ALL
SELECT c.relname, CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END, 'column ' || a.privilege_type
FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, LATERAL aclexplode(t.attacl) a
WHERE c.relnamespace = 'public'::regnamespace AND c.relname LIKE 'memory%'"""

_GUARD = """
SELECT provolatile::text, prosecdef, prosrc, proowner::regrole::text FROM pg_proc
WHERE oid = to_regprocedure('public.memory_current_user_hash()')"""

_QUERIES = {"role": _ROLE, "tables": _TABLES, "policies": _POLICIES, "grants": _GRANTS, "guard": _GUARD}


def verify_rls_isolation(conn) -> list[str]:
    """Every way in which this database falls short of isolation, as sentences; [] when there is none.

    `conn` is a Django or psycopg connection of the role to be judged, which must be the service's.
    """
    with conn.cursor() as cursor:
        rows = {}
        for name, sql in _QUERIES.items():
            cursor.execute(sql)
            rows[name] = cursor.fetchall()
    tables = rows["tables"]
    return [
        *_role_findings(rows["role"], tables),
        *_table_findings(tables),
        *_policy_findings(tables, rows["policies"]),
        *_grant_findings(tables, rows["grants"]),
        *_guard_findings(rows["guard"]),
    ]


def _role_findings(roles, tables):
    name, superuser, bypass, create_role, replication, _login, member_of = roles[0]
    if superuser:
        yield f"the service runs as {name}, a superuser: row-level security does not apply to it"
    if bypass:
        yield f"the service runs as {name}, which has BYPASSRLS"
    if create_role or replication:
        yield f"the service runs as {name}, which may create roles or replicate"
    if member_of:
        yield f"the service runs as {name}, a member of {', '.join(member_of)}"
    owned = [table for table, _, _, _, owner, _ in tables if owner == name]
    if owned:
        yield f"the service runs as {name}, the owner of {', '.join(owned)}"
    if name != APP_ROLE:
        yield f"the service runs as {name}; the policies are for {APP_ROLE}"


def _table_findings(tables):
    parents = {table for table, _, _, _, _, parent in tables if parent is None}
    for table in sorted(set(TENANT_TABLES) - parents):
        yield f"{table} does not exist; run migrate"
    for table in sorted(parents - set(TENANT_TABLES)):
        yield f"{table} has a user_hash column but is not known as a tenant table"
    for table, _, enabled, forced, _, parent in tables:
        if (parent or table) in TENANT_TABLES and not (enabled and forced):
            yield f"{table} lacks {'FORCE' if enabled else 'ENABLE'} ROW LEVEL SECURITY"


def _policy_findings(tables, policies):
    found: dict[str, dict[str, tuple]] = {}
    for table, name, *policy in policies:
        found.setdefault(table, {})[name] = policy
    for table, _, _, _, _, parent in tables:
        if parent is not None and table in found:
            yield f"{table} is a partition and has a policy; partitions deny by default"
    for table in TENANT_TABLES:
        present = dict(found.get(table, {}))
        for suffix, (command, using, check) in POLICIES.items():
            name = f"memory_tenant_isolation_{suffix}"
            policy = present.pop(name, None)
            if policy is None:
                yield f"{table} lacks the policy {name}"
            elif policy != [command, True, [APP_ROLE], using, check]:
                yield f"{table}: the policy {name} is not the one the migrations make"
        for name in present:
            yield f"{table} has an unknown policy {name}: permissive policies add up"


def _grant_findings(tables, grants):
    partitions = {table for table, _, _, _, _, parent in tables if parent is not None}
    held: dict[tuple[str, str], set[str]] = {}
    for table, grantee, privilege in grants:
        held.setdefault((table, grantee), set()).add(privilege)
    for (table, grantee), privileges in sorted(held.items()):
        words = ", ".join(sorted(privileges))
        if grantee == "public":
            yield f"{table} grants {words} to PUBLIC"
        elif grantee == APP_ROLE and table in partitions:
            yield f"{table} is a partition and grants {words} to {APP_ROLE}"
        elif grantee == APP_ROLE and table in STAFF_VIEWS:
            yield f"{table} shows every tenant's metadata and grants {words} to {APP_ROLE}"
        elif grantee == APP_ROLE and table in TENANT_TABLES and privileges - APP_PRIVILEGES:
            yield f"{table} grants {', '.join(sorted(privileges - APP_PRIVILEGES))} to {APP_ROLE}"
        elif (grantee == "r1_staff" and table in TENANT_TABLES) or (grantee == "r1_staff" and table in partitions):
            yield f"{table} grants {words} to r1_staff, who may read metadata views only"
    for table in TENANT_TABLES:
        missing = APP_PRIVILEGES - held.get((table, APP_ROLE), set())
        if missing:
            yield f"{table} does not grant {', '.join(sorted(missing))} to {APP_ROLE}"


def _guard_findings(rows):
    if not rows:
        yield "the guard function memory_current_user_hash() does not exist"
        return
    volatility, definer, source, owner = rows[0]
    if volatility != "s":
        yield "memory_current_user_hash() is not STABLE"
    if definer:
        yield "memory_current_user_hash() is SECURITY DEFINER"
    if owner == APP_ROLE:
        yield f"memory_current_user_hash() belongs to {APP_ROLE}"
    if not _GUARD_REFUSES.search(source):
        yield "memory_current_user_hash() does not refuse a missing or malformed app.user_hash"


_verified_databases: set[tuple] = set()


def require_safe_database(connection) -> None:
    """Verify this Django connection's database once a process, before its first tenant transaction.

    Raises UnsafeDatabase with findings; a database that cannot be reached raises its own error and
    is asked again next time, so an outage at start-up neither passes unverified nor is final.
    """
    params = connection.settings_dict
    place = (params["HOST"], params["PORT"], params["NAME"], params["USER"])
    if place in _verified_databases:
        return
    findings = verify_rls_isolation(connection)
    if findings:
        raise UnsafeDatabase(findings)
    _verified_databases.add(place)
