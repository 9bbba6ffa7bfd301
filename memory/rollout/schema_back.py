"""The last migration of memory taken back, once no traffic needs it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from django.core.management import call_command
from django.db import connections
from django.db.migrations.loader import MigrationLoader

OWNER = "owner"


@dataclass(frozen=True)
class TakenBack:
    """From which migration to which (`zero` below the first), and how long it took."""

    migration: str
    target: str
    seconds: float


def take_back_last_migration(app: str = "memory") -> TakenBack:
    """`manage.py migrate memory <the one before>`, as r1_owner. Raises LookupError where nothing is applied.

    One transaction: killed in the middle, nothing of it happened.
    """
    loader = MigrationLoader(connections[OWNER])
    applied = sorted(name for of, name in loader.applied_migrations if of == app)
    if not applied:
        raise LookupError(f"no migration of {app} is applied")
    target = applied[-2] if len(applied) > 1 else "zero"
    began = time.perf_counter()
    call_command("migrate", app, target, database=OWNER, verbosity=0)
    return TakenBack(applied[-1], target, round(time.perf_counter() - began, 3))
