"""The page of requirements is held to the tree: every row once, and each path and test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.non_regression.documents import ROOT, guide, quoted, rows

# 65, 153 and 154 are of process.
NUMBERS = set(range(1, 160)) - {65, 153, 154}
STATES = {"met", "own way", "measured", "partly", "coming"}
ROWS = rows(guide("requirements"))
# What the plan wants at the top, and what Python, make and people need beside it.
PUBLISHED = {"manage.py", "memory", "r1site", "reranker", "tests", "requirements", "deploy", "README.md"}
BESIDE = {"Makefile", "pyproject.toml", "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "var"}


@cache
def named_in(path: str) -> frozenset[str]:
    """Tests of a file: functions, classes, and methods as `Class::method`."""
    found = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(found)


def test_every_requirement_has_one_row_and_a_state():
    numbers = [int(row[0]) for row in ROWS]
    assert numbers == sorted(NUMBERS)
    assert {row[2] for row in ROWS} <= STATES


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_only_what_is_there(row):
    _, _, state, where, test = row
    for path in quoted(where):
        if re.match(r"(memory|reranker|r1site|deploy|tests|requirements)/", path):
            assert (ROOT / path).exists(), path
    for named in quoted(test):
        path, _, name = named.partition("::")
        assert name in named_in(path), named
    # What is said to be there is shown to be.
    assert state in ("measured", "partly", "coming") or quoted(test)


def test_the_checklist_has_five_phases_and_forty_boxes():
    page = guide("deployment")
    assert len(re.findall(r"^## Phase \d:", page, re.MULTILINE)) == 5
    boxes = re.findall(r"^- \[ \] (.+)$", page, re.MULTILINE)
    assert len(boxes) >= 40
    assert len([box for box in boxes if "`" in box]) >= 40
    assert "## Go or no-go" in page


def test_the_top_level_is_the_published_one():
    there = {path.name for path in ROOT.iterdir() if path.name[0] not in "._"}
    assert there >= PUBLISHED
    assert there - PUBLISHED <= BESIDE
