"""From an empty embedded server to one that migrations can run on: database, roles, passwords."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from r1site.embedded.cluster import Cluster
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.secrets import read_secret

ROLES_FILE = Path(__file__).resolve().parents[2] / "deploy/postgres/roles.sql"
ROLES = ("r1_owner", "r1_app", "r1_staff", "r1_maint", "r1_backup")
# Roles belong to the whole server: two bootstraps at once, even of two databases, would collide.
LOCK_KEY = 0x5231_0001


def bootstrap(cluster: Cluster, secrets_folder: Path, dbname: str) -> None:
    """Make `dbname` if missing, bring roles and grants up to date, set the roles' passwords.

    Repeatable. The server only ever sees SCRAM verifiers made here, never a password. Raises
    `SecretsError` for a missing password, `psycopg.Error` when the server refuses.
    """
    superuser_password = read_secret(secrets_folder, "POSTGRES_PASSWORD")
    passwords = {role: read_secret(secrets_folder, f"{role.upper()}_PASSWORD") for role in ROLES}

    def connect(name: str) -> psycopg.Connection:
        return psycopg.connect(cluster.conninfo(SUPERUSER, superuser_password, name), autocommit=True)

    with connect("postgres") as server:
        server.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
        found = server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (dbname,)).fetchone()
        if found is None:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(dbname)))
        with connect(dbname) as database:
            database.execute(ROLES_FILE.read_bytes())
        with server.transaction():
            for role, password in passwords.items():
                verifier = server.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
                server.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))
