"""Start the service on one machine: `python -m r1site.launch run|serve|token|stop|prepare`.

Without DATABASE_URL it brings its own PostgreSQL under R1_VAR_DIR (default `var` beside `manage.py`):

1. make the secrets that are missing
2. join the embedded cluster, starting it if nobody runs it
3. bring database, roles and grants up to date
4. migrate as the owner, where something is to be migrated
5. build what runs the models on a CPU, and record the model's vector space, where they are not there
6. serve, wait until ready; for `run` also show the demo, issue a token and index the rest of the demo meanwhile
7. on SIGINT or SIGTERM stop gunicorn, then leave the cluster; the last to leave stops it

With DATABASE_URL steps 1 to 3 are the operator's: the keys that its rows are sealed under and named
by must be given, and only the secrets that end with a session are made. `token` takes no step: it needs the secrets
of an earlier start and nothing else. Progress goes to stderr; stdout holds `ready <url>`, `token <jwt>` and, where
there is a console, `console <url>` (`run`), `ready <url>` (`serve`) or the bare token (`token`).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psycopg

from memory.keys.secret_files import Secret, SettingError
from r1site import built_models, demo_run, versions, web_process
from r1site.embedded import launchers
from r1site.embedded.bootstrap import bootstrap
from r1site.embedded.cluster import Cluster
from r1site.embedded.errors import EmbeddedError
from r1site.embedded.preparation import is_prepared, note_prepared
from r1site.embedded.secrets import ensure_development_secrets, read_secret
from r1site.web_process import PROJECT, WebProcessError

DATABASE_NAME = "r1"
DEVELOPMENT_SETTINGS = "r1site.settings.dev"
DEMO_USER = "alice"
WATCH_SECONDS = 2
# What rows are sealed under or named by: each setting, and the settings that may give it.
DATA_KEYS = {
    "MEMORY_ENCRYPTION_KEY": ("MEMORY_ENCRYPTION_KEY", "MEMORY_ENCRYPTION_KEYS"),
    "MEMORY_TENANT_HMAC_KEY": ("MEMORY_TENANT_HMAC_KEY",),
}
SESSION_SECRETS = ("MEMORY_JWT_SECRET", "DJANGO_SECRET_KEY")
# What a new one costs no row.
REPLACEABLE_SECRETS = (*SESSION_SECRETS, "MEMORY_RECEIPT_KEY")


class LaunchError(Exception):
    """The service could not be started; the message says what to do."""


FAILURES = (LaunchError, WebProcessError, EmbeddedError, SettingError, TimeoutError, psycopg.Error)


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived."""


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done or stopped by a signal, 1 failed, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m r1site.launch", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "serve"):
        command = commands.add_parser(name)
        command.add_argument("--port", type=int, default=os.environ.get("PORT") or 8123)
    commands.add_parser("token").add_argument("--user", default=DEMO_USER)
    commands.add_parser("stop")
    commands.add_parser("prepare")
    options = parser.parse_args(argv)

    var = Path(os.environ.get("R1_VAR_DIR") or PROJECT / "var").resolve()
    os.environ["R1_VAR_DIR"] = str(var)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", DEVELOPMENT_SETTINGS)
    if os.environ.get("R1_STOP_WITH_PARENT"):
        web_process.die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        if options.command == "stop":
            return stop(var)
        if options.command == "token":
            print(token(var, options.user), flush=True)
        elif options.command == "prepare":
            with prepared(var):
                pass
        else:
            serve(var, options.port, with_demo=options.command == "run")
    except Stopped:
        _say("stopped")
    except FAILURES as error:
        _say(f"error: {error}")
        return 1
    return 0


@contextmanager
def prepared(var: Path) -> Iterator[Cluster | None]:
    """Steps 1 to 5; inside the block joined to the cluster, which is None with DATABASE_URL."""
    url = Secret("DATABASE_URL").value()
    cluster = None if url else Cluster(var / "postgres")
    if os.environ["DJANGO_SETTINGS_MODULE"] == DEVELOPMENT_SETTINGS:
        if cluster is None:
            _require_data_keys(var / "secrets")
            ensure_development_secrets(var / "secrets", database_exists=False, names=REPLACEABLE_SECRETS)
        else:
            ensure_development_secrets(var / "secrets", database_exists=cluster.exists())
    _say("database: DATABASE_URL" if url else f"database: embedded, under {var / 'postgres'}")
    with nullcontext() if cluster is None else cluster:
        if cluster is not None:
            bootstrap(cluster, var / "secrets", DATABASE_NAME)
            url = _url_of(cluster, var, "r1_app")
        _say(versions.of_server(url))
        is_ready = cluster is not None and _is_prepared(url)
        if not is_ready:
            _say("migrating")
            _manage("migrate", "--database", "owner", "--verbosity", "0")
        if built_models.all_built():
            _say("models: their built forms are there")
        else:
            _say("models: building what runs them on a CPU")
            _say(f"models: {built_models.in_words(_manage('build_models'))}")
        if not is_ready:
            _say("checking the embedding space")
            _manage("register_space", "--if-none")
        if cluster is not None and not is_ready:
            with psycopg.connect(_url_of(cluster, var, "r1_owner")) as owner:
                note_prepared(owner)
        yield cluster


def _url_of(cluster: Cluster, var: Path, role: str) -> str:
    return cluster.conninfo(role, read_secret(var / "secrets", f"{role.upper()}_PASSWORD"), DATABASE_NAME)


def _is_prepared(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return is_prepared(connection)


def _require_data_keys(folder: Path) -> None:
    """New keys would cut a database that is not ours off from its rows, so none are made for it."""
    for name, settings in DATA_KEYS.items():
        if name == "MEMORY_ENCRYPTION_KEY" and os.environ.get("MEMORY_KEY_PROVIDER", "").strip() == "transit":
            continue  # rows need none where a key server wraps
        if not any(Secret(setting).value() for setting in settings) and not (folder / name).exists():
            raise LaunchError(
                f"DATABASE_URL is set, but {name} is not: set it, or {name}_FILE, to the key of that database "
                "(for an empty database: `openssl rand -base64 32`)"
            )


def serve(var: Path, port: int, *, with_demo: bool) -> None:
    """Steps 1 to 7; returns only by an exception (`Stopped` for a signal)."""
    url = f"http://127.0.0.1:{port}"
    web_process.check_port(port)
    with launchers.registered(var / "launchers"):
        if with_demo:
            _say(versions.of_packages())
        with prepared(var) as cluster, web_process.serving(var, port) as child:
            web_process.wait_until_ready(child, url)
            if with_demo:
                _manage("demo", "--url", url, shown=True)
                _say(f"the rest of the demo is indexed meanwhile: {demo_run.log_of(var)}")
            print(f"ready {url}", flush=True)
            if with_demo:
                issued = _manage("issue_token", "--user", DEMO_USER)
                print(f"token {issued}", flush=True)
                if demo_run.has_console(url):
                    # In the fragment, which no browser sends anywhere; the page strips it at once.
                    print(f"console {url}/console/#token={issued}", flush=True)
            with demo_run.rest_of_demo(var, url) if with_demo else nullcontext():
                _watch(child, cluster)


def token(var: Path, user: str) -> str:
    """A bearer token for `user`. Makes no secret and touches no server; raises LaunchError where there is no secret."""
    folder = var / "secrets"
    is_development = os.environ["DJANGO_SETTINGS_MODULE"] == DEVELOPMENT_SETTINGS
    for name in SESSION_SECRETS if is_development else ():
        if not Secret(name).value() and not (folder / name).exists():
            raise LaunchError(
                f"there is no {name} under {folder} yet: start the service once (`make run`), or `make prepare`"
            )
    return _manage("issue_token", "--user", user)


def stop(var: Path) -> int:
    """Stop the launchers over `var` and then its database. 1 if somebody still uses that."""
    for pid in launchers.stop_all(var / "launchers"):
        _say(f"stopped launcher {pid}")
    cluster = Cluster(var / "postgres")
    if not cluster.leave() and cluster.is_running():
        _say("the database is still in use by another process, which will stop it when it ends")
        return 1
    _say("stopped")
    return 0


def _watch(child: subprocess.Popen, cluster: Cluster | None) -> None:
    """Until gunicorn ends, which is an error; meanwhile start the database again if it was killed."""
    while child.poll() is None:
        if cluster is not None and not cluster.is_running():
            _say("the database is gone; starting it again")
            cluster.ensure_running()
        with suppress(subprocess.TimeoutExpired):
            child.wait(WATCH_SECONDS)
    raise LaunchError(f"gunicorn ended unexpectedly with status {child.returncode}; its output is above")


def _manage(*arguments: str, shown: bool = False) -> str:
    """Run a management command; its stdout without outer spaces, or '' if `shown` sends it to ours."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        stdout=None if shown else subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout or "")
        raise LaunchError(f"manage.py {arguments[0]} failed with status {done.returncode}; its output is above")
    return (done.stdout or "").strip()


def _on_signal(number: int, frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
