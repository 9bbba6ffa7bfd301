"""What PostgreSQL's catalogue says about isolation, as rows. Readable by any role; extensions left out."""

from __future__ import annotations

from memory.isolation.connection import Connection, Row
from memory.isolation.own_index import INDEXES
from memory.isolation.role_audit import SETTINGS_QUERY

_ROLES = """
SELECT r.rolname::text, r.rolname = current_user, r.rolsuper, r.rolbypassrls, r.rolcreaterole OR r.rolreplication,
       (SELECT array_agg(g.rolname::text ORDER BY g.rolname) FROM pg_auth_members m
        JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)
FROM pg_roles r WHERE r.rolname IN (current_user, 'r1_staff') ORDER BY r.rolname"""

_SCHEMA = """
SELECT pg_catalog.has_schema_privilege(current_user, 'public', 'CREATE'),
       pg_catalog.has_database_privilege(current_user, current_database(), 'CREATE')"""

_TABLES = """
SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text,
       (SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE i.inhrelid = c.oid)
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'm')
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_hash' AND NOT a.attisdropped)
ORDER BY c.relname"""

_PARTITIONS = """
SELECT p.relname, c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f') ORDER BY c.relname"""

_POLICIES = """
SELECT c.relname, p.polname, p.polcmd::text, p.polpermissive,
       ARRAY(SELECT CASE WHEN r = 0 THEN 'public' ELSE r::regrole::text END FROM unnest(p.polroles) r),
       pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
WHERE c.relnamespace = 'public'::regnamespace ORDER BY c.relname, p.polname"""

_VIEWS = """
SELECT c.relname, c.relowner::regrole::text FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('v', 'm')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.relname"""

_GRANTS = """
WITH ours AS (
    SELECT c.* FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
SELECT c.relname, CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END,
       a.privilege_type, a.is_grantable
FROM ours c, LATERAL aclexplode(c.relacl) a
UNION ALL
SELECT c.relname, CASE WHEN a.grantee = 0 THEN 'public' ELSE a.grantee::regrole::text END,
       'column ' || a.privilege_type, a.is_grantable
FROM ours c JOIN pg_attribute t ON t.attrelid = c.oid, LATERAL aclexplode(t.attacl) a
ORDER BY 1, 2, 3"""

_FUNCTIONS = """
SELECT p.proname, p.provolatile::text, p.prosecdef, p.prosrc, p.proowner::regrole::text, n.nspname
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE (n.nspname = 'public' OR p.prosecdef) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
ORDER BY p.proname"""

_ELSEWHERE = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('public', 'pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND c.relkind IN ('r', 'p', 'f', 'm', 'v') AND has_schema_privilege(n.oid, 'USAGE')
  AND has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')"""

_COLUMNS = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v' GROUP BY c.relname"""

_RULES = """
SELECT c.relname, r.rulename FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
WHERE c.relnamespace = 'public'::regnamespace AND r.rulename <> '_RETURN' ORDER BY 1, 2"""

_HEX_CHECKS = """
SELECT c.relname, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = 'public'::regnamespace AND k.conname = c.relname || '_user_hash_hex'"""

_TRIGGERS = """
SELECT c.relname, t.tgname, p.prosrc, t.tgenabled::text
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal ORDER BY c.relname, t.tgname"""

_QUERIES = {
    "roles": _ROLES,
    "schema": _SCHEMA,
    "tables": _TABLES,
    "partitions": _PARTITIONS,
    "policies": _POLICIES,
    "views": _VIEWS,
    "grants": _GRANTS,
    "functions": _FUNCTIONS,
    "triggers": _TRIGGERS,
    "role_settings": SETTINGS_QUERY,
    "elsewhere": _ELSEWHERE,
    "columns": _COLUMNS,
    "rules": _RULES,
    "hex_checks": _HEX_CHECKS,
}


def read_catalogue(conn: Connection) -> dict[str, list[Row]]:
    """Each query's rows by name. `conn` is a Django or psycopg connection of the role to be judged."""
    rows: dict[str, list[Row]] = {}
    with conn.cursor() as cursor:
        for name, sql in _QUERIES.items():
            cursor.execute(sql)
            rows[name] = cursor.fetchall()
    return rows


def read_indexes(conn: Connection) -> list[Row]:
    """The rows of INDEXES: a quarter of a second and more where thousands of users have an index of their own."""
    with conn.cursor() as cursor:
        cursor.execute(INDEXES)
        return cursor.fetchall()
