"""Plain connections to the suite's server, one role each, and what its rows amount to.

Plain psycopg and no Django: what these tests are about is the server, whoever talks to it.
"""

from __future__ import annotations

import psycopg
from django.conf import settings
from psycopg import sql

from memory.isolation.audit import TENANT_TABLES
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.secrets import read_secret
from r1site.settings.databases import ROLES
from r1site.settings.test import TEST_ROOT

ALIASES = {role: alias for alias, role in ROLES.items()}


def conninfo(role: str, dbname: str | None = None) -> dict:
    """Connection parameters of one of the five roles, or of the superuser, on the suite's server."""
    known = settings.DATABASES[ALIASES.get(role, "default")]
    password = read_secret(TEST_ROOT / "secrets", "POSTGRES_PASSWORD") if role == SUPERUSER else known["PASSWORD"]
    return {
        "host": known["HOST"], "port": known["PORT"], "dbname": dbname or known["NAME"], "user": role,
        "password": password,
    }  # fmt: skip


def connect(role: str, dbname: str | None = None, **options) -> psycopg.Connection:
    """A connection of its own, in autocommit: a transaction is opened where one is meant."""
    return psycopg.connect(**conninfo(role, dbname), autocommit=True, **options)


def bind(connection: psycopg.Connection, user_hash: str, *, local: bool = True) -> None:
    """What the product does at the start of each tenant transaction, spelled out."""
    connection.execute("SELECT set_config('app.user_hash', %s, %s)", [user_hash, local])


def digest(connection: psycopg.Connection, table: str, user_hash: str) -> tuple[int, str]:
    """(count, a hash over every column of every row) of one user's rows, as `connection` sees them."""
    statement = sql.SQL(
        "SELECT count(*), coalesce(md5(string_agg(r::text, chr(10) ORDER BY r::text)), '')"
        " FROM {} r WHERE user_hash = %s"
    )
    return connection.execute(statement.format(sql.Identifier(table)), [user_hash]).fetchone()


def row_versions(connection: psycopg.Connection, *user_hashes: str) -> list[tuple[str, ...]]:
    """(table, user, partition, place, transaction that wrote it) of each of these users' rows, as `connection` sees it.

    One statement over every tenant table. A row that is written, even with what it held, is another version.
    """
    selects = [
        sql.SQL(
            "SELECT {}::text, user_hash::text, tableoid::text, ctid::text, xmin::text"
            " FROM {} WHERE user_hash = ANY(%(h)s)"
        ).format(sql.Literal(table), sql.Identifier(table))
        for table in TENANT_TABLES
    ]
    everything = sql.SQL(" UNION ALL ").join(selects) + sql.SQL(" ORDER BY 1, 2, 3, 4")
    return connection.execute(everything, {"h": list(user_hashes)}, prepare=True).fetchall()
