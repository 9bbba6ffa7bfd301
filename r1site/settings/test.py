"""The test suite: an embedded cluster of its own under `var/suite`, made and started by tests/conftest.py.

Run in parallel, each of pytest-xdist's workers has its own, under `var/suite-gw0`, `var/suite-gw1` and so on: with a
server, keys and passwords that no other worker knows.
"""

import os
from pathlib import Path

from r1site.embedded.secrets import ensure_development_secrets
from r1site.settings import databases
from r1site.settings.development_secrets import NAMES, use_files_in

_VAR_DIR = Path(os.environ.get("R1_VAR_DIR") or Path(__file__).resolve().parents[2] / "var").absolute()
_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
TEST_ROOT = _VAR_DIR / (f"suite-{_WORKER}" if _WORKER else "suite")
ensure_development_secrets(TEST_ROOT / "secrets", database_exists=(TEST_ROOT / "postgres" / "data").exists())
# The process that starts the workers has read this file too, and they inherit the names of its key files.
for _name in NAMES:
    if os.environ.get(f"{_name}_FILE") == str(_VAR_DIR / "suite" / "secrets" / _name):
        del os.environ[f"{_name}_FILE"]
use_files_in(TEST_ROOT / "secrets")

# So many threads to a worker's models that all of them together want no more cores than there are.
if _WORKER:
    _workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

from r1site.settings.base import *  # noqa: E402
from r1site.settings.base import MEMORY_DB_PREPARES, POOL  # noqa: E402

DATABASES = databases.embedded(TEST_ROOT / "postgres", TEST_ROOT / "secrets", pool=POOL, prepares=MEMORY_DB_PREPARES)
for _alias in DATABASES.values():
    _alias["TEST"] = {"NAME": _alias["NAME"]}

# Tests of the rate limits set their own; the others are not counted.
MEMORY_RATE_QUERY = MEMORY_RATE_INDEX = MEMORY_RATE_CHUNKS = MEMORY_RATE_DEFAULT = None
# Tests of deadlines set their own; the others may run on a machine that is busy with something else.
MEMORY_QUERY_SECONDS = MEMORY_LANGUAGE_SECONDS = 60.0
MEMORY_INDEX_SECONDS = 600.0
# Tests of admission set their own; the others send what they like at once.
MEMORY_USER_CONCURRENCY = 36
# Tests of the reranker name the backend they want; the others get candidate order.
RERANK_BACKEND = "none"

# What a password costs a guesser it costs each test that logs in.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Staff's pages are at a host name of their own, as in production.
DJANGO_ADMIN_HOSTS = ("staff.example",)
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", *DJANGO_ADMIN_HOSTS]
