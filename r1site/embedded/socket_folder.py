"""The folder in which the embedded server listens: where it is, and private to the server's account."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from r1site.embedded.account import Account
from r1site.embedded.errors import EmbeddedError

PORT = 5432
# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the final NUL included.
SOCKET_PATH_LIMIT_BYTES = 100


def socket_dir(root: Path) -> Path:
    """The folder of the server's socket: a pure function of `root`, the same in every process."""
    root = Path(root).resolve()
    folder = root / "run"
    socket_bytes = len(os.fsencode(folder / f".s.PGSQL.{PORT}"))
    # libpq reads a comma in a host as a list of hosts.
    if socket_bytes <= SOCKET_PATH_LIMIT_BYTES and "," not in str(folder):
        return folder
    # /tmp rather than the environment's TMPDIR, which may differ between two processes.
    base = Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())
    return base / f"r1-{fingerprint(root)}"


def fingerprint(root: Path) -> str:
    """16 hex digits that stand for `root`."""
    return hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def make(folder: Path, account: Account) -> None:
    """Make `folder`, private to `account`, or make it so. Raises EmbeddedError where something else has its name."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # A stranger could have made the folder under /tmp first, to listen in our server's place.
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise EmbeddedError(f"{folder} must be a folder of its own: remove what is there")
    account.own(folder)
    folder.chmod(0o700)
