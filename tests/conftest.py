"""Every test of the database runs on real PostgreSQL, as r1_app, in real transactions.

The suite has an embedded cluster of its own under var/suite, and each worker of a parallel run has one under
var/suite-<worker>. Tables are never emptied between tests: each test makes users of its own, whose rows no other
test can reach. That is the product's promise, and the suite leans on it.
"""

from __future__ import annotations

import os
import sys
import time

import hypothesis
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import TransactionTestCase
from whitenoise.middleware import WhiteNoiseMiddleware

from memory.embedding.embedder import Embedder
from r1site.embedded.data_folder import SUPERUSER
from tests.db.server import connect
from tests.garbage import collect_what_is_new
from tests.people import Person

# A run of the suite tries the same examples as the one before: who sees it fail has changed something. `make fuzz`
# tries others. On a busy machine an example, and the making of one, may take as long as it takes.
_unhurried = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("suite", derandomize=True, **_unhurried)
hypothesis.settings.register_profile("fuzz", **_unhurried)
hypothesis.settings.load_profile("fuzz" if os.environ.get("FUZZ_EXAMPLES") else "suite")

# Many processes are started here, and none of them is to compile all of the code anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Where the files that take minutes are: the later a long one starts, the longer one worker is busy alone.
LONGEST_FIRST = ("faults", "db", "security", "commands", "api")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a parallel run, files are handed out in this order; otherwise the order stays as it is."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: [item.path.parent.name != folder for folder in LONGEST_FIRST])


def pytest_collection_finish() -> None:
    """What is imported and collected stays to the end: no garbage collection need look through it again."""
    collect_what_is_new()


@pytest.fixture(scope="session", autouse=True)
def built_models():
    """The embedding model's built form, as every set-up makes it; once a checkout, whoever comes first."""
    Embedder().build(settings.MEMORY_MODELS_DIR)


@pytest.fixture(scope="session")
def cluster():
    """The suite's PostgreSQL: made on first use, started, roles and database up to date."""
    from r1site.embedded.bootstrap import bootstrap
    from r1site.embedded.cluster import Cluster
    from r1site.settings.test import TEST_ROOT

    with Cluster(TEST_ROOT / "postgres", durable=False) as running:
        bootstrap(running, TEST_ROOT / "secrets", settings.DATABASES["default"]["NAME"])
        yield running


@pytest.fixture(scope="session")
def django_db_setup(cluster, django_db_blocker):
    """Migrate as the owner; pytest-django's own test database would need a role that may create one."""
    from memory.keys.master_keys import forget_parsed_keys
    from memory.sealing.keyring import begin_key_watch

    # The space is registered under the suite's own key, whatever a test before had in the environment.
    forget_parsed_keys()
    with django_db_blocker.unblock():
        call_command("migrate", database="owner", verbosity=0)
        call_command("register_space", verbosity=0)
        begin_key_watch()
        connections.close_all()
    yield
    with django_db_blocker.unblock():
        connections["default"].close_pool()


@pytest.fixture(scope="session", autouse=True)
def tables_are_not_emptied():
    """Django would empty its own tables after a test with real transactions: staff's accounts and their rights.

    To find them it asks the server what tables there are, over a connection of each alias that the test may use.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda case: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def static_files_are_looked_for_once():
    """Each of Django's test clients makes the middleware anew, and whitenoise's takes 20 ms to find its files."""
    found: dict = {}
    look = WhiteNoiseMiddleware.add_files_from_finders

    def look_once(middleware: WhiteNoiseMiddleware) -> None:
        if not found:
            look(middleware)
            found.update(middleware.files)
        middleware.files.update(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WhiteNoiseMiddleware, "add_files_from_finders", look_once)
        yield


@pytest.fixture(autouse=True)
def _nothing_borrowed():
    """No test starts with keys that another one cached or put into the environment, or with its connections."""
    from memory.keys.master_keys import forget_parsed_keys
    from memory.keys.receipt_keys import forget_parsed_receipt_keys
    from memory.sealing.keyring import forget_profiles
    from memory.sealing.promotion import forget_promoted

    forget_profiles()
    forget_promoted()
    forget_parsed_keys()
    forget_parsed_receipt_keys()
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


@pytest.fixture(autouse=True)
def _room_is_given_back():
    """No test leaves a request under way, or an answer unread and open, whose room the next one would miss."""
    from memory.admission.concurrency import exports, requests, streams

    before = exports.taken + requests.taken + streams.taken
    yield
    until = time.monotonic() + 10
    while exports.taken + requests.taken + streams.taken > before:
        assert time.monotonic() < until, "an answer is still open, or a request under way"
        time.sleep(0.01)


@pytest.fixture
def alice(transactional_db) -> Person:
    """A user of the product."""
    return Person.new("alice")


@pytest.fixture
def bob(transactional_db) -> Person:
    """Another user of the same product."""
    return Person.new("bob")


@pytest.fixture
def stranger(transactional_db) -> Person:
    """A user who never stored anything."""
    return Person.new("stranger")


@pytest.fixture
def superuser(cluster, transactional_db):
    """A connection that no policy and no grant holds back: it sees every row as it is."""
    with connect(SUPERUSER) as connection:
        yield connection
