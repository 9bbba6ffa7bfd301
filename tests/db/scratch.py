"""A database of its own on the suite's server, for tests that take the house apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import psycopg
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from psycopg import sql

from memory.embedding.spaces import default_space
from r1site.embedded.bootstrap import bootstrap
from r1site.embedded.cluster import Cluster
from r1site.embedded.data_folder import SUPERUSER
from r1site.settings.databases import ROLES
from r1site.settings.test import TEST_ROOT
from tests.db.server import connect

PREFIX = "r1_scratch"


class ScratchDatabase:
    """A bootstrapped database without tables, until `migrate()`."""

    def __init__(self, name: str):
        self.name = name

    def connect(self, role: str = SUPERUSER, **options) -> psycopg.Connection:
        """As `server.connect`, to this database."""
        return connect(role, self.name, **options)

    @contextmanager
    def as_alias(self, *aliases: str, role: str | None = None) -> Iterator[None]:
        """Let these Django aliases mean this database, in this thread; as `role` if it is given.

        An alias that has a pool has one of its own here, as long as the block.
        """
        default_space()  # looked up once a process, in the suite's own database
        replaced = {alias: connections[alias] for alias in aliases}
        for alias, original in replaced.items():
            settings_dict = deepcopy(original.settings_dict) | {"NAME": self.name}
            if role is not None:
                settings_dict |= {"USER": role, "PASSWORD": connections[_alias_of(role)].settings_dict["PASSWORD"]}
            # Django keeps pools by alias, in the class.
            backend = type("DatabaseWrapper", (type(original),), {"_connection_pools": {}})
            connections[alias] = backend(settings_dict, alias)
        try:
            yield
        finally:
            for alias, original in replaced.items():
                connections[alias].close()
                connections[alias].close_pool()
                connections[alias] = original

    def migrate(self, *target: str, alias: str = "owner", role: str | None = None) -> None:
        """`manage.py migrate` here, all of it or memory to `target`; as r1_owner unless told otherwise."""
        with self.as_alias(alias, role=role):
            call_command("migrate", *(("memory", *target) if target else ()), database=alias, verbosity=0)

    def step(self, target: str) -> None:
        """memory's migrations to `target` or "zero", as r1_owner; without what Django does around every `migrate`."""
        with self.as_alias("owner"):
            MigrationExecutor(connections["owner"]).migrate([("memory", None if target == "zero" else target)])

    def bootstrap(self) -> None:
        """Roles, grants and passwords as every start of the embedded server makes them."""
        bootstrap(Cluster(TEST_ROOT / "postgres", durable=False), TEST_ROOT / "secrets", self.name)


def _alias_of(role: str) -> str:
    return next(alias for alias, name in ROLES.items() if name == role)


@contextmanager
def scratch_database(purpose: str) -> Iterator[ScratchDatabase]:
    """A new database, dropped at the end of the block, and one left by a killed run dropped first."""
    database = ScratchDatabase(f"{PREFIX}_{purpose}_{os.getpid()}")
    with connect(SUPERUSER, "postgres") as server:
        for (name,) in server.execute("SELECT datname FROM pg_database WHERE datname ~ %s", [f"^{PREFIX}_"]).fetchall():
            if not _is_alive(int(name.rpartition("_")[2])):
                _drop(server, name)
        try:
            database.bootstrap()
            yield database
        finally:
            _drop(server, database.name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _drop(server: psycopg.Connection, name: str) -> None:
    server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
