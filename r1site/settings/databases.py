"""The database aliases, one a role, and which of them may migrate.

| alias   | role      | used by                                             |
|---------|-----------|-----------------------------------------------------|
| default | r1_app    | the service; the only alias that requests reach     |
| owner   | r1_owner  | `migrate`                                           |
| staff   | r1_staff  | Django admin (metadata views)                       |
| maint   | r1_maint  | management commands that list or move tenants       |
| backup  | r1_backup | read-only checks that must see every tenant's rows  |
"""

from __future__ import annotations

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from r1site.settings import env

ROLES = {
    "default": "r1_app",
    "owner": "r1_owner",
    "staff": "r1_staff",
    "maint": "r1_maint",
    "backup": "r1_backup",
}

# A statement that a connection has sent so often is prepared there: the server parses it no more, and keeps its plan
# where it may (memory/isolation/pipeline.py).
PREPARED_AFTER_USES = 2
# At most; a request waits no longer than its deadline lets it (r1site/postgresql).
POOL_WAIT_SECONDS = 1.5


# Django's own applications, which know staff and nobody else.
STAFF_APPLICATIONS = frozenset({"admin", "auth", "axes", "contenttypes", "sessions"})


class OurRouter:
    """Only the owner's connection may change the schema; a query goes where it is told, else to staff's or r1_app's."""

    def db_for_read(self, model, instance=None, **hints):
        if instance is not None and instance._state.db:
            return instance._state.db
        is_for_staff = getattr(model, "is_for_staff", False) or model._meta.app_label in STAFF_APPLICATIONS
        return "staff" if is_for_staff else "default"

    db_for_write = db_for_read

    def allow_relation(self, obj1, obj2, **hints):
        return None

    def allow_migrate(self, db, app_label, model_name=None, **hints):
        return db == "owner"


def _alias(*, name: str, host: str, port: str, user: str, password: str, options: dict) -> dict:
    return {
        "ENGINE": "r1site.postgresql",
        "NAME": name,
        "HOST": host,
        "PORT": port,
        "USER": user,
        "PASSWORD": password,
        "CONN_MAX_AGE": 0,
        # r1site/postgresql looks after the pool's connections; the others are new each time.
        "CONN_HEALTH_CHECKS": False,
        "ATOMIC_REQUESTS": False,
        # Parameters travel apart from the statement, so that content never stands in the server's log.
        "OPTIONS": {"server_side_binding": True, **options},
    }


def embedded(root: Path, secrets: Path, *, name: str = "r1", pool: dict | None, prepares: bool = True) -> dict:
    """The five aliases on the embedded server under `root`, with the passwords in the folder `secrets`."""
    # Here, so that production does not import the embedded server.
    from r1site.embedded.socket_folder import PORT, socket_dir

    aliases = {}
    for alias, role in ROLES.items():
        password_file = secrets / f"{role.upper()}_PASSWORD"
        password = password_file.read_text().strip() if password_file.exists() else ""
        aliases[alias] = _alias(
            name=name, host=str(socket_dir(root)), port=str(PORT), user=role, password=password,
            options=_of_requests(pool, prepares) if alias == "default" else {},
        )  # fmt: skip
    return aliases


def from_urls(*, pool: dict | None, prepares: bool = True) -> dict:
    """The five aliases on any PostgreSQL 15+: DATABASE_URL is r1_app's; DATABASE_<ALIAS>_URL the others'.

    An alias without a URL of its own uses DATABASE_URL's server and database, its own role, and no
    password (a .pgpass, a peer or a certificate may supply it).
    """
    base = _parse("DATABASE_URL", env.secret("DATABASE_URL", required=True))
    aliases = {}
    for alias, role in ROLES.items():
        setting = setting_of(alias)
        if alias == "default" or setting != "DATABASE_URL":
            params = _parse(setting, env.secret(setting, required=True))
        else:
            params = {**base, "user": role, "password": ""}
        known = {key: params.pop(key, "") for key in ("dbname", "host", "port", "user", "password")}
        if alias == "default":
            params = _KEPT_ALIVE | params | _of_requests(pool, prepares)
        aliases[alias] = _alias(
            name=known["dbname"], host=known["host"], port=known["port"],
            user=known["user"] or role, password=known["password"], options=params,
        )  # fmt: skip
    return aliases


def _of_requests(pool: dict | None, prepares: bool) -> dict:
    """The options of the alias that requests reach. Commands send a statement once, or bring many rows with it."""
    return ({"pool": pool} if pool else {}) | ({"prepare_threshold": PREPARED_AFTER_USES} if prepares else {})


# A pool lends its warmest connection, so that others may be idle for hours: no gateway between here and the server may
# forget them, and what breaks while it is idle is known 90 s later. Seconds, and how many go unanswered.
_KEPT_ALIVE = {"keepalives_idle": "60", "keepalives_interval": "10", "keepalives_count": "3"}


def setting_of(alias: str) -> str:
    """The setting that says where `alias` connects to: its own, or DATABASE_URL where that is not set."""
    own = f"DATABASE_{alias.upper()}_URL"
    return own if alias != "default" and env.secret(own, required=False) else "DATABASE_URL"


def _parse(setting: str, url: str) -> dict:
    try:
        params = conninfo_to_dict(url)
    except ProgrammingError:
        raise ImproperlyConfigured(f"{setting} is not a PostgreSQL URL or connection string") from None
    if not params.get("dbname"):
        raise ImproperlyConfigured(f"{setting} names no database")
    return params
