"""Generated clients at a real service: `make test-clients`. Without R1_CLIENTS these are no part of a run."""

from __future__ import annotations

import os

if "R1_CLIENTS" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
