"""The running server process behind a data folder, as the operating system sees it.

`postmaster.pid` alone proves nothing: after a crash its process id may be dead, or belong by now to a
program that has nothing to do with PostgreSQL. And an empty command line does not prove a process dead: between
an exec and the program's first instruction it is empty, for as long as a busy machine keeps that process waiting.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from r1site.embedded.errors import EmbeddedError

FAST_STOP_SECONDS = 60
QUIT_SECONDS = 15
POLL_SECONDS = 0.02
# How long a process that lives and shows no arguments may be in the middle of an exec. Some never show any.
EXEC_SECONDS = 5

# The states of a process that has ended: a zombie, which its parent has not collected, and one about to vanish.
_ENDED_STATES = ("Z", "X")


class PostmasterError(EmbeddedError):
    """The server process did not do as told."""


def postmaster_pid(data: Path) -> int | None:
    """Process id of the live server over `data`, or None. A leftover pid file counts for nothing."""
    pid = recorded_pid(data)
    if pid is None:
        return None
    arguments = _settled_command_line(pid)
    if not arguments or os.path.basename(arguments[0]) != "postgres":
        return None
    return pid if any(_is_same_folder(argument, data) for argument in arguments[1:]) else None


def recorded_pid(data: Path) -> int | None:
    """The process id in `postmaster.pid`, alive or not; None without a readable file."""
    try:
        first_line = (data / "postmaster.pid").read_text("utf-8", "replace").split("\n", 1)[0]
        return abs(int(first_line))
    except (FileNotFoundError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Whether `pid` is a process that has not ended (a zombie has), whatever its command line shows."""
    if os.path.isdir("/proc/self"):
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False
        # The program's name stands in parentheses before the state, and may hold some itself.
        state = os.fsdecode(stat.rpartition(b")")[2]).split()[0]
    else:
        state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return not state.startswith(_ENDED_STATES) if state else False


def disown_recorded_pid(data: Path, socket_lock: Path) -> dict[str, str]:
    """Let a server start although its lock files name a process that lives and is unrelated, or a zombie.

    PostgreSQL ignores a recorded id that is its grandparent's, so ours is written into `postmaster.pid`.
    The rest of that file stays: it names the shared memory by which PostgreSQL finds orphans of a crashed
    server, and deleting it would take that guard away. The socket's lock in our private folder guards
    nothing more and goes. Call it only when `postmaster_pid` is None; returns the environment that the
    start needs.
    """
    socket_lock.unlink(missing_ok=True)
    if recorded_pid(data) is not None:
        path = data / "postmaster.pid"
        _, _, rest = path.read_text("utf-8", "replace").partition("\n")
        status = path.stat()
        draft = data / "postmaster.pid.new"
        draft.write_text(f"{os.getpid()}\n{rest}", "utf-8")
        draft.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(draft, status.st_uid, status.st_gid)
        os.replace(draft, path)
    return {"PG_GRANDPARENT_PID": str(os.getpid())}


def stop(data: Path) -> None:
    """Stop the server as `pg_ctl stop -m fast` does; as `-m immediate` when it does not end in time.

    Raises `PostmasterError` when it outlives that too.
    """
    pid = postmaster_pid(data)
    if pid is None:
        return
    for order, limit_seconds in ((signal.SIGINT, FAST_STOP_SECONDS), (signal.SIGQUIT, QUIT_SECONDS)):
        try:
            os.kill(pid, order)
        except ProcessLookupError:
            return
        except PermissionError:
            raise PostmasterError(f"process {pid} serves {data} for another user") from None
        if _ended([pid], limit_seconds):
            return
    raise PostmasterError(f"process {pid} over {data} does not stop")


def quit_orphans(cluster_name: str) -> None:
    """End server children that outlived a killed server; they hold its shared memory.

    Most notice by themselves at once; one inside a long statement does not.
    """
    orphans = [pid for pid in _all_pids() if _is_child_of(cluster_name, pid)]
    for pid in orphans:
        try:
            os.kill(pid, signal.SIGQUIT)
        except ProcessLookupError:
            continue
        except PermissionError:
            raise PostmasterError(f"process {pid} of an earlier server belongs to another user") from None
    if not _ended(orphans, QUIT_SECONDS):
        raise PostmasterError(f"processes {orphans} of an earlier server do not end")


def _ended(pids: list[int], limit_seconds: float) -> bool:
    deadline = time.monotonic() + limit_seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _is_child_of(cluster_name: str, pid: int) -> bool:
    # Children show their cluster in the title: `postgres: <cluster_name>: checkpointer`. They are forked and not
    # exec'd, so one without a title is none of them, and is not waited for.
    arguments = _command_line(pid)
    return bool(arguments) and arguments[0].startswith(f"postgres: {cluster_name}: ")


def _is_same_folder(argument: str, data: Path) -> bool:
    try:
        return argument == str(data) or os.path.samefile(argument, data)
    except OSError:
        return False


def _all_pids() -> list[int]:
    if os.path.isdir("/proc/self"):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    listing = subprocess.run(["ps", "-axo", "pid="], capture_output=True, text=True).stdout
    return [int(line) for line in listing.split()]


def _settled_command_line(pid: int) -> list[str]:
    """As `_command_line`, once an exec that is under way is over; waits for it up to EXEC_SECONDS."""
    deadline = time.monotonic() + EXEC_SECONDS
    while not (arguments := _command_line(pid)) and is_alive(pid) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return arguments


def _command_line(pid: int) -> list[str]:
    """Arguments of a process now; [] for one that ended, or that is in the middle of an exec.

    The command line and not `/proc/<pid>/cwd`: the latter needs CAP_SYS_PTRACE for another user's
    process, which root in a container often lacks.
    """
    if os.path.isdir("/proc/self"):
        try:
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return []
        return [part for part in os.fsdecode(raw).split("\0") if part]
    done = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
    program, _, rest = done.stdout.strip().partition(" -D ")
    return [program, rest] if rest else [program] if program else []
