"""A file is one noun: at most 250 lines, or its docstring says why it is longer.

Tests are not counted: theirs is one subject a file, and each stands by itself.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("memory", "reranker", "r1site", "deploy")
LINES_MAX = 250
REASON = "Longer than 250 lines"

FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
LONG = [path for path in FILES if len(path.read_text("utf-8").splitlines()) > LINES_MAX]


def test_the_files_are_looked_at():
    assert len(FILES) > 200


@pytest.mark.parametrize("path", LONG, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_more_than_250_lines_says_why(path):
    assert REASON in (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
