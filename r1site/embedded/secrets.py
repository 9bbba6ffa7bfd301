"""Secrets of a development machine: one file each, made once, never replaced.

A production host brings its own through the environment or a secret store; nothing here runs there.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from r1site.embedded.errors import EmbeddedError


class SecretsError(EmbeddedError):
    """A secret is missing or damaged and making a new one would lose data."""


def _random_key() -> str:
    """32 random bytes, standard base64 (44 characters)."""
    return base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def _random_text() -> str:
    """48 random bytes, URL-safe text (64 characters)."""
    return secrets.token_urlsafe(48)


MAKERS: dict[str, Callable[[], str]] = {
    "MEMORY_ENCRYPTION_KEY": _random_key,
    "MEMORY_TENANT_HMAC_KEY": _random_key,
    "MEMORY_RECEIPT_KEY": _random_key,
    "MEMORY_JWT_SECRET": _random_text,
    "DJANGO_SECRET_KEY": _random_text,
    "POSTGRES_PASSWORD": _random_text,
    "R1_APP_PASSWORD": _random_text,
    "R1_OWNER_PASSWORD": _random_text,
    "R1_STAFF_PASSWORD": _random_text,
    "R1_MAINT_PASSWORD": _random_text,
    "R1_BACKUP_PASSWORD": _random_text,
}

# What a new value would cost once there is data. The other secrets only end sessions, or are set
# again on the server at each start.
BOUND_TO_DATA = {
    "MEMORY_ENCRYPTION_KEY": "a new key would make every stored text unreadable",
    "MEMORY_TENANT_HMAC_KEY": "a new key would cut every user off from their own rows",
    "POSTGRES_PASSWORD": "the database server only knows the old one",
}


def read_secret(folder: Path, name: str) -> str:
    """The value of one secret. Raises `SecretsError` when its file is missing or empty."""
    path = folder / name
    try:
        value = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise SecretsError(f"{path} is missing") from None
    if not value:
        raise SecretsError(f"{path} is empty: restore it from your backup")
    return value


def ensure_development_secrets(folder: Path, *, database_exists: bool, names: Iterable[str] = tuple(MAKERS)) -> None:
    """Make the secret files of `names` that are missing (0600, in a 0700 folder); keep those that are there.

    `database_exists` says that rows sealed under the present keys may be stored. Raises
    `SecretsError` when a secret that this data depends on is gone, and changes nothing then.
    """
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with open(folder / ".lock", "w", opener=_private_opener) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [name for name in names if not (folder / name).exists()]
        for name in missing if database_exists else ():
            if name in BOUND_TO_DATA:
                raise SecretsError(
                    f"{folder / name} is missing, but the database already holds data and "
                    f"{BOUND_TO_DATA[name]}. Restore that file from your backup, or point "
                    "R1_VAR_DIR at an empty folder to start afresh."
                )
        for name in missing:
            _write_atomically(folder / name, MAKERS[name]() + "\n")
        for name in names:
            (folder / name).chmod(0o600)
            read_secret(folder, name)


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_atomically(path: Path, text: str) -> None:
    """A reader, and a crash, see the whole file or none."""
    draft = path.with_name(f".{path.name}.new")
    with open(draft, "w", encoding="ascii", opener=_private_opener) as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
