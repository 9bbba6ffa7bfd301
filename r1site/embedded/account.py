"""The operating-system account that PostgreSQL runs under.

PostgreSQL refuses to run as root. A normal user runs it as himself; root runs it as the owner of the
data folder, which is the system user `r1postgres` unless somebody else made the data.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from r1site.embedded.errors import EmbeddedError
from r1site.embedded.installation import environment

SYSTEM_USER = "r1postgres"
PROBE_TIMEOUT_SECONDS = 30

# Tried in this order. Folders above the data may be closed to the account (a home, `mktemp -d`); their
# modes are not ours to change, so the server gets the right to walk through them instead, and no more
# than that where the kernel still has it to give.
CAPABILITIES = (None, "dac_read_search", "dac_override")

# $1 a program that looks for its own place as the server does, $2 a file of its installation, then the
# folders it writes to.
_PROBE = '"$1" --bindir && test -r "$2" && shift 2 && for f; do test -w "$f" || exit 1; done'


class AccountError(EmbeddedError):
    """No account on this machine can run the embedded PostgreSQL."""


@dataclass(frozen=True)
class Account:
    """Who the server runs as; `capability` is the one extra right it keeps, if any."""

    user_id: int
    group_id: int
    capability: str | None = None

    def run(self, argv: Sequence[str], **options) -> subprocess.CompletedProcess:
        """`subprocess.run` of `argv` under this account: from `/`, in `environment()`, with no supplementary groups."""
        options.setdefault("cwd", "/")
        options.setdefault("env", environment())
        if os.geteuid() != 0:
            return subprocess.run(argv, **options)
        if self.capability is None:
            return subprocess.run(argv, user=self.user_id, group=self.group_id, extra_groups=(), **options)
        wrapper = [
            "setpriv",
            f"--reuid={self.user_id}",
            f"--regid={self.group_id}",
            "--clear-groups",
            f"--inh-caps=+{self.capability}",
            f"--ambient-caps=+{self.capability}",
            # access(2), by which PostgreSQL looks for its programs, would ignore the capability otherwise.
            "--securebits=+no_setuid_fixup",
            "--",
        ]
        return subprocess.run([*wrapper, *argv], **options)

    def own(self, folder: Path) -> None:
        """Make `folder` (one of the server's own, never a parent) and all in it this account's.

        Only what is root's is taken over, the folder itself last, so that an interrupted run
        starts over. Raises `AccountError` when it belongs to a third account.
        """
        owner = folder.lstat().st_uid
        if owner == self.user_id:
            return
        if os.geteuid() != 0 or owner != 0:
            raise AccountError(
                f"{folder} belongs to {_user_name(owner)}, not to {_user_name(self.user_id)}: "
                "run as its owner, or point R1_VAR_DIR at another folder."
            )
        for parent, folders, files in os.walk(folder, topdown=False):
            for name in (*folders, *files):
                os.lchown(os.path.join(parent, name), self.user_id, self.group_id)
        os.lchown(folder, self.user_id, self.group_id)

    def able_to_reach(self, programs: Path, support_file: Path, folders: Sequence[Path]) -> Account:
        """This account with the least right that lets it run `programs` and write to `folders`.

        Raises `AccountError` when no right this machine can give is enough.
        """
        if os.geteuid() != 0:
            return self
        probe = [
            "/bin/sh",
            "-c",
            _PROBE,
            "sh",
            str(programs / "pg_config"),
            str(support_file),
            *map(str, folders),
        ]
        for capability in CAPABILITIES:
            candidate = replace(self, capability=capability)
            try:
                done = candidate.run(
                    probe,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=PROBE_TIMEOUT_SECONDS,
                )
            except OSError:
                continue
            if done.returncode == 0:
                return candidate
        raise AccountError(
            f"PostgreSQL may not run as root, and the user {_user_name(self.user_id)} cannot reach "
            f"{programs} and {folders[0]} because a folder above them is closed to other users. "
            "Point R1_VAR_DIR at a folder that others may pass through (such as /var/lib/r1) and keep "
            "the project in one, or run as a normal user, or set DATABASE_URL to a server of your own."
        )


def account_for(data: Path) -> Account:
    """The account for the cluster in `data` (which need not exist yet).

    Raises `AccountError` when root has no user to hand it to and cannot make one.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    if data.exists() and data.stat().st_uid != 0:
        status = data.stat()
        return Account(status.st_uid, status.st_gid)
    entry = _system_user() or _create_system_user()
    return Account(entry.pw_uid, entry.pw_gid)


def _system_user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None


def _create_system_user() -> pwd.struct_passwd:
    program = shutil.which("useradd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    reason = "useradd is not installed"
    if program:
        arguments = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        shell = next((s for s in ("/usr/sbin/nologin", "/sbin/nologin") if os.path.exists(s)), "/bin/false")
        done = subprocess.run([program, *arguments, "--shell", shell, SYSTEM_USER], capture_output=True, text=True)
        reason = done.stderr.strip()
    # Another process may have made it in the meantime, which useradd reports as a failure.
    entry = _system_user()
    if entry is None:
        raise AccountError(
            f"PostgreSQL may not run as root and the system user {SYSTEM_USER} cannot be made ({reason}). "
            "Make that user, or run as a normal user, or set DATABASE_URL to a server of your own."
        )
    return entry


def _user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user id {user_id}"
