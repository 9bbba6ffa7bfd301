"""The schema was made anew once, before anything was released: a database of before is refused, with its way out."""

from __future__ import annotations

from django.core.management.base import CommandError
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

# A migration that every database of the schema before has, and none of this one.
OF_FORMER = ("memory", "0002_tenants")
REFUSAL = """this database was made by an earlier version, whose schema this one does not take over.
Export every user's documents from it first, then start anew and take them in again:
    make former-export > memories.jsonl
    mv var var.former
    make former-import < memories.jsonl"""


def refuse_former_schema(using: str) -> None:
    """Raise CommandError, with nothing changed, where the database behind the alias `using` is of the schema before."""
    connection = connections[using]
    if OF_FORMER in MigrationRecorder(connection).applied_migrations():
        raise CommandError(REFUSAL)
