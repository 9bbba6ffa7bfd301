"""The migration operation that runs a literal SQL file and, backwards, its twin."""

from __future__ import annotations

from pathlib import Path

from django.db import migrations

SQL_FOLDER = Path(__file__).parent / "sql"


class RunSQLFile(migrations.RunSQL):
    """Run `sql/<name>.up.sql` forwards and `sql/<name>.down.sql` backwards, each as one script.

    The files are literal: no model, no setting and no formatting reaches them, so a migration
    means the same for ever.
    """

    def __init__(self, name: str, state_operations=()):
        self.name = name
        up, down = ((SQL_FOLDER / f"{name}.{way}.sql").read_text() for way in ("up", "down"))
        super().__init__(up, down, state_operations=list(state_operations))

    def deconstruct(self):
        return (type(self).__qualname__, [self.name], {"state_operations": self.state_operations})

    def describe(self):
        return f"SQL file {self.name}"
