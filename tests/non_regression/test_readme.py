"""The README is for newcomers: short, and every path, command and link in it leads somewhere.

`tests/faults/test_readme_walk.py` runs its first conversation.
"""

import re
from pathlib import Path

import pytest

from tests.non_regression import documents

ROOT = documents.ROOT
README = ROOT / "README.md"
MAX_LINES = 200
# Every page that people read from its beginning; decisions and benchmarks are records of their day.
PAGES = [
    README,
    ROOT / "ARCHITECTURE.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "deploy/guide").glob("*.md")),
    *sorted((ROOT / "deploy/runbooks").glob("*.md")),
]


def each_page():
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= MAX_LINES


def test_the_readme_leads_to_every_page_of_the_guide():
    linked = {(ROOT / link).resolve() for link in documents.links(README.read_text())}
    assert {page.resolve() for page in (ROOT / "deploy/guide").glob("*.md")} <= linked


def test_the_readme_names_every_address_of_the_contract():
    named = set(re.findall(r"`(?:[A-Z]+`, `)*(?:[A-Z]+ )?(/[\w/<>]+)`", documents.section(README, "Endpoints")))
    addressed = {re.sub(r"\{(\w+)\}", r"<\1>", path) for path in documents.openapi()["paths"]}
    # Operations answer at the root too, where the table has them; the page's own files are no address for people.
    of_pages = {path for path in addressed if path.startswith("/api/v1/docs/")}
    at_root = {path.removeprefix("/api/v1") for path in addressed if "/health/" in path or "/metrics" in path}
    assert {path for path in addressed if path.removeprefix("/api/v1") not in at_root} - of_pages <= named | at_root
    assert named <= addressed | at_root | {"/api/v1/schema", "/api/v1/docs"}


@each_page()
def test_every_path_on_a_page_exists(page):
    for path in re.findall(r"`((?:memory|deploy|r1site|reranker|tests|requirements)/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


@each_page()
def test_every_link_of_a_page_leads_somewhere(page):
    for link in documents.links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in documents.anchors(target.read_text()), link


@each_page()
def test_every_command_on_a_page_exists(page):
    text = page.read_text()
    for name in re.findall(r"manage\.py (\w+)", text):
        assert name == "migrate" or (ROOT / f"memory/management/commands/{name}.py").exists(), name
    named = set(re.findall(r"^make (?:-s )?([a-z][a-z-]+)|[`(]make (?:-s )?([a-z][a-z-]+)", text, re.MULTILINE))
    assert {first or second for first, second in named} <= documents.make_targets()


@each_page()
def test_what_a_page_says_to_install_is_what_the_requirements_pin(page):
    pinned = {line for path in (ROOT / "requirements").glob("*.txt") for line in path.read_text().splitlines()}
    assert set(re.findall(r"pip install (\S+==\S+)", page.read_text())) <= pinned


def test_the_project_speaks_of_the_readme_by_no_section_that_is_gone():
    headings = set(re.findall(r"^#+ (.*)$", README.read_text(), re.MULTILINE))
    for path in documents.source_files():
        for title in re.findall(r'README(?:\.md)?, "([^"]+)"', path.read_text()):
            assert " ".join(title.split()) in headings, f"{path.relative_to(ROOT)}: {title}"


def test_a_page_is_there_for_each_of_these():
    assert Path(ROOT / "ARCHITECTURE.md").exists() and len(PAGES) > 15
