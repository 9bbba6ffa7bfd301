"""The memory page is files under a strict policy, public where it is switched on, and nowhere else."""

import re
from html.parser import HTMLParser

import pytest
from django.test import Client

from memory.console.views import _PAGE, CONTENT_SECURITY_POLICY, FILES
from memory.erasure.receipts import public_keys


@pytest.fixture(autouse=True)
def _on(settings):
    settings.MEMORY_CONSOLE = True


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_page_holds_no_code_of_its_own_and_names_no_other_host():
    page = Client().get("/console/")
    assert page["Content-Type"].startswith("text/html")
    assert page["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY and "http" not in CONTENT_SECURITY_POLICY
    elements = Elements()
    elements.feed(page.content.decode())
    assert elements.found
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag != "style"
        if tag == "script":
            assert attributes["src"] in FILES
        if tag == "link":
            assert attributes["href"] in FILES


def test_every_file_that_the_page_needs_is_served_with_its_type_and_no_other_is():
    assert len(FILES) > 10
    for name, content_type in FILES.items():
        served = Client().get(f"/console/{name}")
        assert (served.status_code, served["Content-Type"]) == (200, content_type)
        assert served.content == (_PAGE / name).read_bytes()
        for imported in re.findall(r'from "\./([\w.]+)"', served.content.decode()):
            assert imported in FILES
    for name in ("index.html", "..%2fviews.py", "none.js", "%2e%2e/urls.py"):
        assert Client().get(f"/console/{name}").status_code == 404


def test_no_module_makes_markup_of_text_or_asks_another_host():
    for name in FILES:
        code = (_PAGE / name).read_text()
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage",
                          "sessionStorage", "document.cookie"):  # fmt: skip
            assert forbidden not in code, f"{name}: {forbidden}"
        assert set(re.findall(r"https?://[^\s\"'`]+", code)) <= {"http://www.w3.org/2000/svg"}


def test_where_it_is_off_there_is_nothing(settings):
    settings.MEMORY_CONSOLE = False
    for name in ("", "main.js", "receipt-keys.json"):
        answer = Client().get(f"/console/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_receipts_can_be_verified_by_what_it_is_told():
    assert Client().get("/console/receipt-keys.json").json() == public_keys()


def test_the_services_address_leads_to_the_page_or_to_the_docs(settings):
    assert Client().get("/")["Location"] == "/console/"
    settings.MEMORY_CONSOLE = False
    assert Client().get("/")["Location"] == "/api/v1/docs"
    assert Client().post("/").status_code == 405


def test_an_address_that_is_not_there_is_told_from_an_object_that_is_not(alice):
    assert alice.get("nowhere").json()["code"] == "no_such_route"
    assert alice.get("memory/documents/nowhere").json()["code"] == "not_found"
