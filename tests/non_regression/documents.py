"""Reading the project's own documents: sections, tables, links, and what the code says beside them."""

import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "deploy/guide"


def guide(name: str) -> str:
    return (GUIDE / f"{name}.md").read_text()


def section(page: Path, title: str) -> str:
    """What stands under a heading of the second level, up to the next."""
    return page.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The rows of every table, cell by cell, without headings."""
    found = []
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
        found += [[cell.strip() for cell in line] for line in lines[2:]]
    return found


def quoted(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def links(text: str) -> list[str]:
    """Links to files of the project, and to headings."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]


def anchors(text: str) -> set[str]:
    """What a heading is linked by: lower case, letters, digits and hyphens."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def make_targets() -> frozenset[str]:
    """The Makefile's targets for people."""
    return frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def openapi() -> dict:
    return json.loads((ROOT / "memory/api/schema/openapi.json").read_text())


def source_files() -> list[Path]:
    """What people write: code, requirements, documents."""
    kinds = {".py", ".md", ".txt", ".conf", ".sql", ".toml"}
    folders = ("memory", "r1site", "reranker", "deploy", "tests", "requirements")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    return [*inside, *ROOT.glob("*.md"), ROOT / "Makefile"]
