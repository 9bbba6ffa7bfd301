"""Staff's pages, walked by a person: each list, each deed with its line in the audit log, hostile content as text."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.browser.conftest import DESKTOP, PHONE

HOSTILE = (
    'notes/<img src=x onerror="document.title=1"><script>document.title=1</script>\u202egnihtemos\u202c \U0001f47b'
)
SECRET = "The combination of the vault is seven nine two."
LISTS = (
    "tenantmeta", "documentmeta", "chunkmeta", "datakeymeta", "masterkey", "worker", "staffspace", "movemeta",
    "staffflag", "rollout", "auditline", "erasuremeta",
)  # fmt: skip


@pytest.fixture(scope="module")
def accounts(service) -> dict[str, str]:
    """Password by name."""
    made = [json.loads(service.manage("create_staff", *options)) for options in (["grace", "--operator"], ["ada"])]
    return {account["name"]: account["password"] for account in made}


@pytest.fixture
def entered(service, accounts, new_page):
    """(name, width, scheme) -> a page of somebody who has logged in."""

    def enter(name: str, width: int = DESKTOP, scheme: str = "light"):
        page = new_page(width, scheme)
        page.goto(f"http://127.0.0.1:{service.port}/admin/")
        page.fill("#id_username", name)
        page.fill("#id_password", accounts[name])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("#content-main")
        while page.locator(".charts").count() == 0:
            page.reload()
        return page

    return enter


def at(page, service, path: str):
    page.goto(f"http://127.0.0.1:{service.port}/admin/{path}")
    return page


def remember(service, token, user: str, **document) -> str:
    """The hash of a user who has this document beside one with the SECRET."""
    name = str(uuid.uuid4())
    for each in ({"doc_id": name, "text": SECRET}, document):
        if each:
            assert service.call("POST", "/api/v1/memory/index", token(user), each)[0] in (200, 201)
    with service.superuser() as superuser:
        [found] = superuser.execute("SELECT user_hash FROM memory_documents WHERE doc_id = %s", [name]).fetchall()
    return found[0]


def test_every_page_loads_and_shows_neither_text_nor_user(service, token, entered, look):
    remember(service, token, "quiet-marie", doc_id=HOSTILE, text=SECRET, source="<b>", thread_id="<i>\U0001f389")
    for width, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
        page = entered("grace", width, scheme)
        look(page, f"admin first page {width}")
        for name in LISTS:
            at(page, service, f"memory/{name}/")
            assert page.locator("h1").first.is_visible()
            assert page.title().endswith("R1 Memory & Context")
            text = page.content()
            assert "seven nine" not in text and "quiet-marie" not in text
            if name in ("tenantmeta", "documentmeta", "chunkmeta", "staffflag", "auditline"):
                look(page, f"admin {name} {width}")
        at(page, service, "memory/documentmeta/")
        assert HOSTILE in page.locator("#result_list").inner_text()
        assert page.locator("#result_list img, #result_list script, #result_list b, #result_list i").count() == 0
        page.get_by_role("link", name=HOSTILE).first.click()
        look(page, f"admin document {width}")
        assert page.title().endswith("R1 Memory & Context")


def test_a_tenant_is_found_by_user_id_looked_at_and_erased_and_the_log_says_who(service, token, entered, look):
    user_hash = remember(service, token, "leaving-otto")
    page = entered("grace")
    page.fill("#id_user_id", "leaving-otto")
    page.get_by_role("button", name="Find").click()
    page.wait_for_selector("#result_list")
    assert "leaving-otto" not in page.url and page.locator("#result_list tbody tr").count() == 1
    page.locator("#result_list a").first.click()
    page.get_by_role("link", name="erase").click()
    look(page, "admin erase")
    page.fill("#id_typed", "00000000")
    page.get_by_role("button", name="Erase for good").click()
    page.wait_for_selector("text=Nothing was erased")
    page.fill("#id_typed", user_hash[:8])
    page.get_by_role("button", name="Erase for good").click()
    page.wait_for_selector("text=Erased: 1 documents")
    assert service.call("GET", "/api/v1/memory/stats", token("leaving-otto"))[1]["documents"] == 0
    at(page, service, f"memory/auditline/?subject={user_hash}")
    lines = page.locator("#result_list tbody tr").all_inner_texts()
    assert len(lines) == 3 and all("grace" in line for line in lines)
    assert "staff.find" in lines[-1] and "staff.erase" in lines[0]
    assert "leaving-otto" not in page.content() + service.log.read_text()
    assert json.loads(service.manage("verify_audit"))["whole"] is True


def test_a_chunk_is_quarantined_and_released(service, token, entered, look):
    user_hash = remember(service, token, "kept-aside")
    ask = ("POST", "/api/v1/memory/query", token("kept-aside"), {"query": "combination of the vault"})
    page = at(entered("grace"), service, f"memory/chunkmeta/?user_hash={user_hash}")
    for choice, found in (("quarantine", 0), ("release", 1)):
        page.locator(".action-select").first.check()
        page.select_option("select[name=action]", choice)
        page.get_by_role("button", name="Go").click()
        page.wait_for_selector(".messagelist .success")
        assert len(service.call(*ask)[1]["results"]) == found
    look(page, "admin chunks")


def test_a_flag_is_set_for_all_workers_and_given_back(service, entered, look):
    page = at(entered("grace"), service, "memory/staffflag/")
    field = page.get_by_label("New value of RERANK_POOL, as JSON; empty: as the setting says")
    field.fill("12")
    field.press("Enter")
    page.wait_for_selector("text=RERANK_POOL: 12")
    assert json.loads(service.manage("flags", "list"))["RERANK_POOL"] == 12
    field.fill("")
    field.press("Enter")
    page.wait_for_selector("text=RERANK_POOL: as the setting says")


def test_who_only_looks_is_offered_no_deed(service, token, entered):
    user_hash = remember(service, token, "looked-at")
    page = entered("ada")
    assert page.locator("#id_user_id").count() == 0
    at(page, service, "memory/staffflag/")
    assert page.get_by_role("button", name="Set").count() == 0
    at(page, service, f"memory/chunkmeta/?user_hash={user_hash}")
    assert page.locator("select[name=action]").count() == 0
    at(page, service, f"memory/tenantmeta/{user_hash}/change/")
    assert page.get_by_role("link", name="erase").count() == 0


def test_it_is_walked_by_keyboard_alone_and_left(service, entered):
    page = entered("ada")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content-start"
    page.get_by_role("button", name="Log out").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Log in again")
