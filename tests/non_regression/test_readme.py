"""The README is for newcomers: short, and every path, command and link in it leads somewhere.

`tests/faults/test_readme_walk.py` runs its first conversation.
"""

import re

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


def test_the_readme_names_every_operation_of_the_contract_and_no_other():
    shown = set()
    for address, _ in documents.rows(documents.section(README, "Endpoints")):
        words = " ".join(documents.quoted(address)).split()
        methods = [word for word in words if word.isupper()]
        shown |= {(method, path) for path in words if path.startswith("/") for method in methods}
    # Operations answer at the root too, where the table has them; a file of the page for people is no address for them.
    operations = {
        (method.upper(), re.sub(r"^/api/v1(?=/health|/metrics)", "", path.replace("{", "<").replace("}", ">")))
        for path, item in documents.openapi()["paths"].items()
        for method in item.keys() & {"get", "post", "put", "patch", "delete"}
        if path != "/api/v1/docs/{name}"
    }
    assert shown == operations


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


def test_every_file_that_code_and_documents_name_exists():
    names = re.compile(r"\b(?:memory|deploy|r1site|reranker|tests)/[a-z0-9_/-]+\.(?:py|md|sql|txt|json|conf)\b(?!\.py)")
    for path in documents.source_files():
        for name in names.findall(path.read_text()):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}"


def test_the_project_speaks_of_the_readme_by_no_section_that_is_gone():
    headings = set(re.findall(r"^#+ (.*)$", README.read_text(), re.MULTILINE))
    for path in documents.source_files():
        for title in re.findall(r'README(?:\.md)?, "([^"]+)"', path.read_text()):
            assert " ".join(title.split()) in headings, f"{path.relative_to(ROOT)}: {title}"
