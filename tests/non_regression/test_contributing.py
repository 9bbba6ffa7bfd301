"""What CONTRIBUTING.md, the hooks and the coverage guard name is there."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_make_target_that_contributors_are_told_exists():
    named = set(re.findall(r"`make ([a-z-]+)", GUIDE))
    assert {"check", "quick", "test", "coverage", "format"} <= named <= TARGETS


def test_every_path_that_contributors_are_told_exists():
    paths = re.findall(r"`((?:memory|deploy|r1site|tests)/[\w./-]+)`", GUIDE)
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_folder_of_tests_is_described():
    folders = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(tests/\w+)/`", GUIDE, re.MULTILINE)) == folders


def test_hooks_run_what_is_here_and_fetch_nothing():
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        program, *rest = hook["entry"].split()
        assert program == ".venv/bin/python" or (program == "make" and set(rest) <= TARGETS)


def test_the_rooms_that_coverage_guards_exist():
    [named] = re.findall(r"^GUARDED := ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)
    rooms = named.replace("\\\n", " ").split()
    assert {"memory/sealing", "memory/keys", "memory/isolation", "memory/indexing", "reranker"} <= set(rooms)
    for room in rooms:
        assert (ROOT / room).exists(), room
