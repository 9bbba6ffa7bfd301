"""One embedded PostgreSQL with pgvector over one folder, shared by every process that uses it.

    root/data           the PostgreSQL data folder (0700)
    root/run            its socket (0700), or a private folder under /tmp where that path is too long
    root/postgres.log   the server's log; holds no content
    root/start.lock     held while somebody starts, stops, joins or leaves
    root/users.lock     held shared by each process that uses the server

The first to join starts the server and the last to leave stops it. Whoever dies without leaving drops
its lock with its life; a server left behind is picked up by the next one to join.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg import pq
from psycopg.conninfo import make_conninfo

from r1site.embedded import data_folder, postmaster, socket_folder
from r1site.embedded import installation as programs
from r1site.embedded.account import Account, account_for
from r1site.embedded.data_folder import SUPERUSER
from r1site.embedded.errors import EmbeddedError
from r1site.embedded.secrets import read_secret
from r1site.embedded.socket_folder import PORT

LOG_KEPT_BYTES = 10 * 1024 * 1024
# Long enough for crash recovery over a full max_wal_size on a slow disk.
START_LIMIT_SECONDS = 300
# A live server whose socket does not answer at all for this long has lost its socket file.
SILENT_LIMIT_SECONDS = 10
POLL_SECONDS = 0.02


class ClusterError(EmbeddedError):
    """The embedded PostgreSQL cannot be made, started or stopped."""


class Cluster:
    """The server over `root`. `durable=False` gives up crash safety and is for tests alone.

    `secrets_folder` (default: `secrets` beside `root`) must hold POSTGRES_PASSWORD before the first
    start. Methods raise `EmbeddedError` with a message for the operator.
    """

    def __init__(
        self,
        root: Path,
        *,
        durable: bool = True,
        secrets_folder: Path | None = None,
        installation: str = programs.DEFAULT,
    ):
        self.root = Path(root).resolve()
        self.data = self.root / "data"
        self.log = self.root / "postgres.log"
        self.socket_folder = socket_folder.socket_dir(self.root)
        self.secrets_folder = Path(secrets_folder or self.root.parent / "secrets").resolve()
        self.durable = durable
        self._name = f"r1-{socket_folder.fingerprint(self.root)}"
        self._installation = installation
        self._users_lock: int | None = None

    def __enter__(self) -> Cluster:
        self.ensure_running()
        return self

    def __exit__(self, *exception) -> None:
        self.leave()

    def exists(self) -> bool:
        """Whether the data folder has been made."""
        return data_folder.exists(self.data)

    def conninfo(self, user: str, password: str, dbname: str) -> str:
        """A libpq connection string to this server."""
        return make_conninfo(host=str(self.socket_folder), port=PORT, user=user, password=password, dbname=dbname)

    def is_running(self) -> bool:
        """Whether this cluster's own server process is alive and takes connections."""
        return postmaster.postmaster_pid(self.data) is not None and self._ping() == pq.Ping.OK

    def start(self) -> None:
        """Start the server, making the data folder first if need be; nothing if it runs."""
        with self._transition():
            self._start()

    def stop(self) -> None:
        """Stop the server, whoever uses it; nothing if it does not run."""
        with self._transition():
            postmaster.stop(self.data)

    def ensure_running(self) -> None:
        """Join the users of the server and have it running. Repeated calls count once."""
        with self._transition():
            joined_now = self._users_lock is None
            if joined_now:
                self._users_lock = self._open_lock("users.lock")
                fcntl.flock(self._users_lock, fcntl.LOCK_SH)
            try:
                self._start()
            except BaseException:
                if joined_now:
                    self._leave()
                raise

    def leave(self) -> bool:
        """Leave the users of the server; the last to do so stops it. True if it was stopped."""
        if not self.root.is_dir():
            return False
        with self._transition():
            return self._leave()

    def _leave(self) -> bool:
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None
        lock = self._open_lock("users.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            postmaster.stop(self.data)
            return True
        finally:
            os.close(lock)

    @contextmanager
    def _transition(self) -> Iterator[None]:
        """One process at a time starts, stops, joins or leaves."""
        if not self.root.is_dir():
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(exist_ok=True)
            # Others may pass through, for the server's own account; what lies inside is closed to them.
            self.root.chmod(0o711)
        lock = self._open_lock("start.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open_lock(self, name: str) -> int:
        return os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _start(self) -> None:
        pid = postmaster.postmaster_pid(self.data)
        if pid is not None:
            if self._answers(pid, SILENT_LIMIT_SECONDS):
                return
            postmaster.stop(self.data)
        server = programs.program("postgres", self._installation)
        account = account_for(self.data)
        if self.exists():
            account.own(self.data)
        socket_folder.make(self.socket_folder, account)
        written = [self.data, self.socket_folder] if self.exists() else [self.socket_folder]
        account = account.able_to_reach(server.parent, programs.support_file(self._installation), written)
        if not self.exists():
            password = read_secret(self.secrets_folder, "POSTGRES_PASSWORD")
            data_folder.create(
                self.data,
                account,
                scratch=self.socket_folder,
                password=password,
                installation=self._installation,
                durable=self.durable,
            )
        data_folder.configure(
            self.data,
            account,
            socket_folder=self.socket_folder,
            cluster_name=self._name,
            installation=self._installation,
            durable=self.durable,
        )
        postmaster.quit_orphans(self._name)
        self._launch(server, account)

    def _launch(self, server: Path, account: Account) -> None:
        if self.log.exists() and self.log.stat().st_size > LOG_KEPT_BYTES:
            os.replace(self.log, self.log.with_suffix(".log.1"))
        socket_lock = self.socket_folder / f".s.PGSQL.{PORT}.lock"
        environment = programs.environment() | postmaster.disown_recorded_pid(self.data, socket_lock)
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as log:
            # Through a shell that ends at once: the server is then no child of ours, outlives us, and
            # is reaped by init.
            done = account.run(
                ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", str(server), "-D", str(self.data)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                check=True,
            )
        if not self._answers(int(done.stdout), START_LIMIT_SECONDS):
            tail = self.log.read_text("utf-8", "replace").splitlines()[-15:]
            raise ClusterError("\n".join([f"PostgreSQL did not start; the end of {self.log}:", *tail]))

    def _answers(self, pid: int, silent_limit_seconds: float) -> bool:
        """Wait until the server takes connections; False when it is gone, or silent for too long."""
        silent_since = time.monotonic()
        deadline = silent_since + START_LIMIT_SECONDS
        while (now := time.monotonic()) < deadline and postmaster.is_alive(pid):
            answer = self._ping()
            if answer == pq.Ping.OK:
                return True
            if answer == pq.Ping.REJECT:
                silent_since = now
            elif now - silent_since > silent_limit_seconds:
                return False
            time.sleep(POLL_SECONDS)
        return False

    def _ping(self) -> pq.Ping:
        return pq.Ping(pq.PGconn.ping(self.conninfo(SUPERUSER, "", "postgres").encode()))
