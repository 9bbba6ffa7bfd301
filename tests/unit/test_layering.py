"""What the contracts in pyproject.toml (lint-imports) do not hold: how much stands in the hall."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LOOSE_MODULES_MAX = 10


def test_nothing_stands_in_memorys_hall_but_what_everybody_uses():
    loose = sorted(path.stem for path in (PROJECT / "memory").glob("*.py") if path.stem != "__init__")
    assert len(loose) <= LOOSE_MODULES_MAX, loose
