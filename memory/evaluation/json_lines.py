"""JSON Lines, one object a line, each of which must have certain members."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path


def rows(path: Path, *needed: str) -> Iterator[dict]:
    """The objects of `path` in order; blank lines are skipped. Raises ValueError that names line and members."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                for name in needed:
                    row[name]
            except (ValueError, KeyError, TypeError):
                members = " and ".join(filter(None, (", ".join(needed[:-1]), needed[-1])))
                raise ValueError(f"line {number} of {path.name} is not an object with {members}") from None
            yield row
