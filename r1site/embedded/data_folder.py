"""Making a PostgreSQL data folder, and the settings file inside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from r1site.embedded import installation as programs
from r1site.embedded import tuning
from r1site.embedded.account import Account
from r1site.embedded.errors import EmbeddedError

SUPERUSER = "postgres"


class DataFolderError(EmbeddedError):
    """The data folder cannot be made, or is of another PostgreSQL."""


def exists(data: Path) -> bool:
    """Whether `data` holds a cluster. Raises `DataFolderError` where we may not look."""
    # Not `is_file`, which takes a folder that we may not look into for an absent one.
    try:
        os.stat(data / "PG_VERSION")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise DataFolderError(
            f"{data} belongs to another user: run as that one, or point R1_VAR_DIR at another folder"
        ) from None
    return True


def create(data: Path, account: Account, *, scratch: Path, password: str, installation: str, durable: bool) -> None:
    """initdb with scram for every connection, UTF-8 and data checksums.

    Works beside the final place and moves the result there, so that a kill leaves no half. `scratch`
    is a private folder of the account; the password file lies there while initdb runs.
    """
    draft = data.with_name("data.new")
    password_file = scratch / "initdb-password"
    try:
        for locale in ("C.UTF-8", "C"):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(mode=0o700)
            _write_private(password_file, password + "\n", account)
            account.own(draft)
            argv = [str(programs.program("initdb", installation)), "-D", str(draft), "-U", SUPERUSER, "-k"]
            argv += ["-E", "UTF8", f"--locale={locale}", "--auth=scram-sha-256", f"--pwfile={password_file}"]
            if not durable:
                argv += ["--no-sync", "-c", "scram_iterations=1"]
            done = account.run(argv, capture_output=True, text=True)
            if done.returncode == 0:
                break
        else:
            raise DataFolderError(f"initdb failed:\n{done.stderr.strip()}")
    finally:
        password_file.unlink(missing_ok=True)
    with open(draft / "postgresql.conf", "a", encoding="utf-8") as handle:
        handle.write("\ninclude_if_exists = 'r1.conf'\n")
    os.rename(draft, data)


def configure(
    data: Path, account: Account, *, socket_folder: Path, cluster_name: str, installation: str, durable: bool
) -> None:
    """Write this start's settings. Raises `DataFolderError` for another major version's data."""
    found = (data / "PG_VERSION").read_text().strip()
    wanted = installation.removeprefix("pginstall") or found
    if found != wanted:
        raise DataFolderError(
            f"{data} was made by PostgreSQL {found}, this release runs {wanted}: move the folder away and "
            "restore your backup into a new one"
        )
    data.chmod(0o700)
    settings = tuning.server_settings(socket_folder=socket_folder, cluster_name=cluster_name, durable=durable)
    draft = data / "r1.conf.new"
    _write_private(draft, tuning.render(settings), account)
    os.replace(draft, data / "r1.conf")


def _write_private(path: Path, text: str, account: Account) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    if os.geteuid() == 0:
        os.chown(path, account.user_id, account.group_id)
