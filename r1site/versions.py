"""What runs here, in words: Python, its packages, and the server."""

from __future__ import annotations

import importlib.metadata
import sys
from contextlib import suppress

import psycopg

PACKAGES = ("django", "onnxruntime", "openvino", "torch", "sentence-transformers")


def of_packages() -> str:
    """Python and the packages that matter to answers and speed; without those that are not installed."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def of_server(url: str) -> str:
    """PostgreSQL and pgvector. Raises psycopg.Error."""
    with psycopg.connect(url) as connection:
        (server,) = connection.execute("SHOW server_version").fetchone() or ("unknown",)
        extension = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return f"postgresql {server.split()[0]}, pgvector {extension[0] if extension else 'missing'}"
