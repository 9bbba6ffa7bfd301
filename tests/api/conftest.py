"""What the tests of the API share."""

from __future__ import annotations

import pytest

from r1site.embedded.data_folder import SUPERUSER
from tests.db.server import connect


@pytest.fixture
def superuser(cluster, transactional_db):
    """A connection that no policy and no grant holds back: it sees every row as it is."""
    with connect(SUPERUSER) as connection:
        yield connection
