"""ARCHITECTURE.md says what the code does: rooms, the hall, the direction of imports, and the steps of each walk."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGES = ("r1site", "memory", "reranker")
WITH_ROOMS = (*PACKAGES, "deploy", "tests")
WALKS = ("A query", "A write", "A stream", "An erasure")
# Where a request comes in: middleware and addresses stand there.
ENTRANCES = ("r1site/settings/base.py", "r1site/urls.py")
# A file that a walk passes is used by one that it passed before, directly or through one in between.
HOPS = 2


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rooms_named() -> dict[str, list[str]]:
    """The rooms of each package, in the page's order."""
    rooms: dict[str, list[str]] = {}
    for line in section("The house").splitlines():
        if top := re.fullmatch(r"(\w+)/", line):
            rooms[top[1]] = []
        elif room := re.match(r"  (\w+)/ +\S", line):
            list(rooms.values())[-1].append(room[1])
    return rooms


def rooms_there(package: str) -> set[str]:
    folders = (path for path in (ROOT / package).iterdir() if path.is_dir() and path.name[0] not in "._")
    return {folder.name for folder in folders if any(path.is_file() for path in folder.iterdir())}


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@cache
def file_of(dotted: str) -> str | None:
    """The file of a module, or of the module that something in it is named by; None for what is not ours."""
    parts = dotted.split(".")
    if parts[0] not in PACKAGES:
        return None
    for length in range(len(parts), 0, -1):
        base = "/".join(parts[:length])
        for candidate in (f"{base}.py", f"{base}/__init__.py"):
            if (ROOT / candidate).is_file():
                return candidate
    return None


@cache
def imported_by(path: str) -> frozenset[str]:
    """Our files that `path` imports, or names by a dotted path as settings and `include()` do."""
    dotted = set()
    for node in ast.walk(tree(path)):
        dotted.update(_modules_of(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+(\.\w+)+", node.value):
            dotted.add(node.value)
    return frozenset(found for name in dotted if (found := file_of(name)) and found != path)


def defined_in(path: str) -> set[str]:
    """Functions, classes and `Class.method`s of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = {node.name for node in tree(path).body if isinstance(node, kinds)}
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, kinds)}
    return names


def steps(walk: str) -> list[tuple[str, str]]:
    return re.findall(r"`([\w/]+\.py):([\w.]+)`", section(walk))


def sources(package: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in (ROOT / package).glob("**/*.py")]


@pytest.mark.parametrize("package", WITH_ROOMS)
def test_every_room_is_named_and_every_room_named_is_there(package):
    named = rooms_named()[package]
    assert len(named) == len(set(named))
    assert set(named) == rooms_there(package)


def test_the_hall_holds_what_the_page_says_and_nothing_else():
    named = re.findall(r"^\| `(memory/\w+\.py)` \|", section("The hall"), re.MULTILINE)
    there = {f"memory/{path.name}" for path in (ROOT / "memory").glob("*.py")} - {"memory/__init__.py"}
    assert sorted(named) == sorted(there)
    assert len(there) <= 10


@pytest.mark.parametrize(("package", "above"), [("memory", ("r1site",)), ("reranker", ("r1site", "memory"))])
def test_imports_go_one_way(package, above):
    wrong = [
        (path, node.lineno)
        for path in sources(package)
        for node in ast.walk(tree(path))
        for name in (*_modules_of(node), *_modules_named(node))
        if name.partition(".")[0] in above
    ]
    assert wrong == []


def test_a_room_uses_no_room_above_it_but_where_the_page_says_so():
    floors = rooms_named()["memory"]
    allowed = set(re.findall(r"`(memory/[\w/]+\.py)` uses\s+`memory/(\w+)/`", section("One direction")))
    upward = set()
    for path in sources("memory"):
        room, _, rest = path.removeprefix("memory/").partition("/")
        if not rest:
            continue
        for name in (name for node in ast.walk(tree(path)) for name in _modules_of(node)):
            used = name.removeprefix("memory.").partition(".")[0]
            is_room = name.startswith("memory.") and used in floors
            if is_room and used != room and floors.index(used) < floors.index(room):
                upward.add((path, used))
    assert upward == allowed


@pytest.mark.parametrize("walk", WALKS)
def test_every_step_of_a_walk_is_in_the_file_it_names(walk):
    found = steps(walk)
    assert len(found) >= 8
    missing = [f"{path}:{name}" for path, name in found if not (ROOT / path).is_file() or name not in defined_in(path)]
    assert missing == []


@pytest.mark.parametrize("walk", WALKS)
def test_each_file_of_a_walk_is_used_by_one_that_came_before(walk):
    shared = [path for path, _ in steps("A query")[:12]] if walk != "A query" else []
    reached = {*ENTRANCES, "memory/api/urls.py", *shared}
    strays = []
    for path, _ in steps(walk):
        # Django finds a command by its place.
        if not path.startswith("memory/management/commands/") and not _is_used(path, by=reached):
            strays.append(path)
        reached.add(path)
    assert strays == []


def _is_used(path: str, *, by: set[str]) -> bool:
    front = set(by)
    for _ in range(HOPS + 1):
        if path in front:
            return True
        front = set().union(*(imported_by(each) for each in front))
    return False


def _modules_named(node: ast.AST) -> list[str]:
    """Modules of ours, or what is in them, that a string names for `import_module` and its like."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+(\.\w+)+", node.value):
        return [node.value] if file_of(node.value) else []
    return []


def _modules_of(node: ast.AST) -> list[str]:
    """What a statement imports, as dotted names; of `from a import b`, `a.b`."""
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return []
