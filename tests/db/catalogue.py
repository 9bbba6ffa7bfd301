"""Everything the migrations make, as sorted lists: what the catalogue says about the schema `public`.

Columns without their order: one that a migration puts back comes last.
"""

from __future__ import annotations

import psycopg

_OURS = "n.nspname = 'public' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = {oid} AND d.deptype = 'e')"

QUERIES = {
    "relations": f"""
        SELECT c.relname, c.relkind::text, c.relowner::regrole::text, c.relrowsecurity, c.relforcerowsecurity,
               c.relpersistence::text, ARRAY(SELECT unnest(c.reloptions) ORDER BY 1),
               pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS.format(oid="c.oid")}""",
    "columns": f"""
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attstorage::text, a.attcompression::text, l.collname, pg_get_expr(f.adbin, f.adrelid),
               ARRAY(SELECT unnest(a.attacl)::text ORDER BY 1)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_collation l ON l.oid = a.attcollation
        LEFT JOIN pg_attrdef f ON f.adrelid = c.oid AND f.adnum = a.attnum
        WHERE c.relkind IN ('r', 'p', 'v', 'm') AND {_OURS.format(oid="c.oid")}""",
    "policies": """
        SELECT c.relname, p.polname, p.polcmd::text, p.polpermissive,
               ARRAY(SELECT CASE r WHEN 0 THEN 'public' ELSE r::regrole::text END FROM unnest(p.polroles) r ORDER BY 1),
               pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
        FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid""",
    "grants": f"""
        SELECT c.relname, CASE a.grantee WHEN 0 THEN 'public' ELSE a.grantee::regrole::text END, a.privilege_type,
               a.grantor::regrole::text, a.is_grantable
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
        WHERE {_OURS.format(oid="c.oid")}""",
    "constraints": f"""
        SELECT c.relname, t.conname, pg_get_constraintdef(t.oid), t.convalidated, t.conislocal
        FROM pg_constraint t JOIN pg_class c ON c.oid = t.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS.format(oid="c.oid")}""",
    "indexes": f"""
        SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisunique, i.indisprimary
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {_OURS.format(oid="c.oid")}""",
    "functions": f"""
        SELECT pg_get_functiondef(p.oid), p.proowner::regrole::text, ARRAY(SELECT unnest(p.proacl)::text ORDER BY 1)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prokind = 'f' AND {_OURS.format(oid="p.oid")}""",
    "views": f"""
        SELECT c.relname, pg_get_viewdef(c.oid)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('v', 'm') AND {_OURS.format(oid="c.oid")}""",
    "triggers": """
        SELECT t.tgrelid::regclass::text, pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT t.tgisinternal""",
    "schemas": """
        SELECT nspname, ARRAY(SELECT unnest(nspacl)::text ORDER BY 1) FROM pg_namespace WHERE nspname !~ '^pg_'""",
    "default privileges": """
        SELECT defaclrole::regrole::text, defaclobjtype::text, ARRAY(SELECT unnest(defaclacl)::text ORDER BY 1)
        FROM pg_default_acl""",
}


def catalogue(superuser: psycopg.Connection) -> dict[str, list[str]]:
    """What there is, by kind; two equal ones are two equal schemas."""
    return {kind: sorted(repr(row) for row in superuser.execute(query)) for kind, query in QUERIES.items()}


def tables(superuser: psycopg.Connection) -> list[str]:
    """Every table of the service, without partitions and Django's own."""
    found = superuser.execute(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
        " AND relnamespace = 'public'::regnamespace AND relname ~ '^memory_' ORDER BY relname"
    )
    return [name for (name,) in found]


def rows(superuser: psycopg.Connection) -> dict[str, tuple[int, dict[str, str]]]:
    """Each table's (count, hash over each column of every row, as the rows lie), as the superuser sees them."""
    digest = "coalesce(md5(string_agg(coalesce({0}::text, 'null'), chr(10) ORDER BY tableoid, ctid)), '')"
    found = {}
    for table in tables(superuser):
        # Unprepared: the next migration may change what it gives.
        shape = superuser.execute(f"SELECT * FROM {table} LIMIT 0", prepare=False)
        columns = [column.name for column in shape.description]
        hashes = ", ".join(digest.format(column) for column in columns)
        count, *of_columns = superuser.execute(f"SELECT count(*), {hashes} FROM {table}").fetchone()
        found[table] = (count, dict(zip(columns, of_columns, strict=True)))
    return found


def as_below(above: tuple[int, dict[str, str]], below: tuple[int, dict[str, str]]) -> tuple[int, dict[str, str]]:
    """Of a table's `rows`, what is comparable with those of a schema `below`: the columns that it had there."""
    count, columns = above
    return count, {column: hashed for column, hashed in columns.items() if column in below[1]}
