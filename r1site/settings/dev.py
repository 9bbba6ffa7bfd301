"""One machine: keys made under `var/secrets`, the embedded PostgreSQL unless DATABASE_URL is set."""

import os
from pathlib import Path

from r1site.settings import databases, env
from r1site.settings.development_secrets import use_files_in

_VAR_DIR = Path(os.environ.get("R1_VAR_DIR") or Path(__file__).resolve().parents[2] / "var").absolute()
use_files_in(_VAR_DIR / "secrets")

from r1site.settings.base import *  # noqa: E402
from r1site.settings.base import LOGGING, MEMORY_DB_PREPARES, POOL, VAR_DIR  # noqa: E402

# For whoever tries the service; elsewhere only where it is asked for.
MEMORY_CONSOLE = env.boolean("MEMORY_CONSOLE", True)
DJANGO_ADMIN_HOSTS = env.texts("DJANGO_ADMIN_HOSTS", ("127.0.0.1", "localhost", "[::1]"))

if env.secret("DATABASE_URL", required=False):
    DATABASES = databases.from_urls(pool=POOL, prepares=MEMORY_DB_PREPARES)
else:
    DATABASES = databases.embedded(VAR_DIR / "postgres", VAR_DIR / "secrets", pool=POOL, prepares=MEMORY_DB_PREPARES)

# A line for every request would bury what the launcher has to say.
LOGGING["handlers"]["access"] = {
    "class": "r1site.shared_log.SharedLogHandler",
    "filename": VAR_DIR / "log" / "access.log",
    "formatter": "bare",
}
