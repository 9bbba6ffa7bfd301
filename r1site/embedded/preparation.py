"""Whether the embedded database stands as this code has prepared it, so that a start need not load Django to see.

The mark is a comment on Django's table of migrations: it names the code's migrations, and the rows of that table as
they were then. Other code, a migration taken back, or another database, and the mark does not fit.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import psycopg
from psycopg import sql

MIGRATIONS = Path(__file__).resolve().parents[2] / "memory/migrations"
# Whose migrations are applied beside ours.
PACKAGES = ("django", "django-axes")

_MARK = "SELECT obj_description(to_regclass('django_migrations'), 'pg_class')"
_APPLIED = "SELECT app, name FROM django_migrations ORDER BY app, name"
_HAS_SPACE = "SELECT EXISTS (SELECT FROM memory_spaces WHERE is_default)"


def is_prepared(connection: psycopg.Connection) -> bool:
    """Whether every migration of this code is applied, and new users have a space. `connection` may be r1_app's."""
    [mark] = connection.execute(_MARK).fetchone() or (None,)
    if mark is None or mark != _mark(connection):
        return False
    [has_space] = connection.execute(_HAS_SPACE).fetchone() or (False,)
    return bool(has_space)


def note_prepared(connection: psycopg.Connection) -> None:
    """Called after the migrations and the registration of a space; `connection` is r1_owner's."""
    comment = sql.SQL("COMMENT ON TABLE django_migrations IS {}").format(sql.Literal(_mark(connection)))
    connection.execute(comment)


def _mark(connection: psycopg.Connection) -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for path in sorted(each for each in MIGRATIONS.rglob("*") if each.suffix in (".py", ".sql")):
        digest.update(f"{path.relative_to(MIGRATIONS)}\n".encode() + path.read_bytes())
    for app, name in connection.execute(_APPLIED):
        digest.update(f"{app}.{name}\n".encode())
    return f"prepared: {digest.hexdigest()}"
