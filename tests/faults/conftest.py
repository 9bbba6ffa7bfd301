"""What tests of started services share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not under pytest's own, which the embedded server's user may not enter."""
    with tempfile.TemporaryDirectory(prefix="r1-") as folder:
        yield Path(folder)
