"""What staff sees on each page: metadata of everybody, and of nobody a text, a user id or a sealed byte."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from urllib.parse import parse_qsl

import pytest

from memory import admin
from memory.admin import site
from memory.staff import dashboard
from tests.factories import DocumentFactory

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint", "staff"])

SECRET = "The vault's combination is seven-nine-two, whispered Ottoline."
HOSTILE = "notes/<script>alert(1)</script>\"'.\u202egnp.\U0001f47b"
LISTS = sorted(model._meta.model_name for model in site._registry)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """The first look is waited for, however busy the machine."""
    monkeypatch.setattr(dashboard, "FIRST_LOOK_SECONDS", 60)
    dashboard.forget_dashboard()
    yield
    dashboard.forget_dashboard()


@pytest.fixture
def remembered(alice):
    """Alice, with a document whose id, source and thread are hostile, and a secret in its text and metadata."""
    body = {
        "source": "<b onclick=alert(2)>",
        "thread_id": "</td><svg onload=alert(3)>",
        "metadata": {"combination": "792"},
    }
    assert alice.index(HOSTILE, SECRET, speaker="Ottoline", **body).status_code == 201
    return alice


def pages_of(staff, user_hash: str) -> dict[str, str]:
    """Every page there is, by address: the lists, narrowed down to the user where they can be, and a row of each."""
    seen = {"": staff.see("")}
    for name in LISTS:
        query = {"user_hash": user_hash} if name in ("documentmeta", "chunkmeta", "datakeymeta", "tenantmeta") else {}
        address = f"memory/{name}/"
        seen[address] = staff.see(address, **query)
        for row in re.findall(rf'href="(/admin/{address}[^"]+/change/[^"]*)"', seen[address])[:3]:
            seen[row] = staff.see(unescape(row).removeprefix("/admin/"))
    return seen


def sealed_bytes(superuser, user_hash: str) -> list[bytes]:
    found = []
    for table, columns in {
        "memory_chunks": ("text_cipher", "meta_cipher", "emb_cipher"),
        "memory_documents": ("meta_cipher", "speaker_cipher", "content_mac"),
        "memory_tenants": ("user_id_cipher",),
        "memory_data_keys": ("sealed_key",),
        "memory_search_keys": ("sealed_key",),
    }.items():
        for row in superuser.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE user_hash = %s", [user_hash]):
            found += [bytes(value) for value in row if value]
    assert len(found) >= 9
    return found


def test_no_page_has_a_text_a_user_id_or_a_sealed_byte(operator, remembered, superuser):
    pages = pages_of(operator, remembered.user_hash)
    assert len(pages) > len(LISTS) + 4
    secrets = ["Ottoline", "seven-nine", "combination", remembered.user_id]
    for sealed in sealed_bytes(superuser, remembered.user_hash):
        secrets += [sealed[:8].hex(), base64.b64encode(sealed[:9]).decode(), repr(sealed[:8])[2:-1]]
    for address, page in pages.items():
        assert [secret for secret in secrets if secret in unescape(page)] == [], address


def test_what_a_product_named_its_documents_is_text_and_no_markup(viewer, remembered):
    for address, page in pages_of(viewer, remembered.user_hash).items():
        for markup in ("<script>alert", "<b onclick", "<svg onload"):
            assert markup not in page, address
    assert HOSTILE in unescape(viewer.see("memory/documentmeta/", user_hash=remembered.user_hash))


def test_a_row_has_a_page_of_its_own_whatever_its_name_is(viewer, remembered):
    [row] = re.findall(
        r'href="/admin/(memory/documentmeta/[^"?]+/change/)',
        viewer.see("memory/documentmeta/", user_hash=remembered.user_hash),
    )
    page = unescape(viewer.see(unescape(row)))
    assert HOSTILE in page and remembered.user_hash in page
    assert '<input type="submit"' not in page


@pytest.mark.parametrize("key", ["x", "1.2.3", "a" * 64 + ".not-a-uuid.1", "a" * 64 + ".nothing", "%00", "."])
def test_a_row_that_is_not_there_is_said_not_to_be(viewer, key):
    for name in ("documentmeta", "chunkmeta", "datakeymeta"):
        response = viewer.get(f"/admin/memory/{name}/{key}/change/", follow=True)
        assert response.status_code in (200, 404)
        assert b"exist" in response.content or response.status_code == 404


def test_a_tenants_page_adds_up_his_sealed_bytes_unless_there_are_too_many(viewer, remembered, superuser, monkeypatch):
    [texts] = superuser.execute(
        "SELECT sum(octet_length(text_cipher)) FROM memory_chunks WHERE user_hash = %s", [remembered.user_hash]
    ).fetchone()
    page = f"memory/tenantmeta/{remembered.user_hash}/change/"
    assert f"{texts:,} and " in viewer.see(page)
    monkeypatch.setattr(admin, "_BYTES", "SELECT length(pg_sleep(5)::text), length(%s || %s)")
    assert "too many to add up" in viewer.see(page)


def test_a_list_goes_on_page_by_page_and_leaves_nothing_out(viewer, alice, bob, monkeypatch):
    from memory.staff.pages import MetadataAdmin

    monkeypatch.setattr(MetadataAdmin, "list_per_page", 2)
    for number in range(5):
        DocumentFactory(person=alice, doc_id=f"notes/{number} & more")
    DocumentFactory(person=bob, doc_id="notes/of bob")
    for name, shown in (("documentmeta", r"notes/\d &amp; more"), ("chunkmeta", r"notes/\d &amp; more")):
        seen, query = [], {"user_hash": alice.user_hash}
        for _ in range(3):
            page = viewer.see(f"memory/{name}/", **query)
            found = re.findall(rf">({shown})<", page)
            seen += found
            assert "of bob" not in page
            following = re.search(r'href="\?([^"]+)" rel="next"', page)
            if following is None:
                break
            query = dict(parse_qsl(unescape(following[1])))
        assert sorted(seen) == [f"notes/{number} &amp; more" for number in range(5)]
        assert following is None


@pytest.mark.parametrize(
    "after", ["x", "[]", "[1]", '["a"]', '["a", null, 3]', '["a","\\u0000","1"]', "{}", '["a","b","c"]']
)
def test_a_place_in_a_list_that_is_none_is_refused(viewer, after):
    response = viewer.get("/admin/memory/chunkmeta/", {"after": after})
    assert response.status_code == 302 and response.headers["Location"].endswith("?e=1")


@pytest.mark.parametrize("name", ["tenantmeta", "chunkmeta", "auditline"])
@pytest.mark.parametrize("value", ["\x00", "\ud800".encode("utf-8", "surrogatepass"), "\U0001f47b", "x" * 5000, "%"])
def test_a_list_narrowed_down_to_rubbish_is_empty_or_refused(viewer, name, value):
    column = "subject" if name == "auditline" else "user_hash"
    response = viewer.get(f"/admin/memory/{name}/", {column: value})
    assert response.status_code in (200, 302, 400)


@pytest.mark.parametrize("query", [{"chunk_count__gt": "1"}, {"key": "x"}, {"user_hash__contains": "a"}, {"o": "1"}])
def test_a_list_is_narrowed_down_and_ordered_by_nothing_that_no_index_has(viewer, query):
    response = viewer.get("/admin/memory/documentmeta/", query)
    # The order of a column is not listened to; any other lookup is refused.
    assert response.status_code == (200 if "o" in query else 400)


def test_the_first_page_tells_how_much_there_is_and_draws_it(viewer, remembered):
    page = viewer.see("")
    assert re.search(r"<dt>tenants</dt><dd>[1-9]\d*</dd>", page)
    assert re.search(r"<dt>master key, days in use</dt><dd>0 of 90</dd>", page)
    assert page.count('<svg class="chart"') >= 3
    assert "Expired" in page or "expired" in page


def test_a_table_that_takes_too_long_to_count_is_said_to_be_one(viewer, monkeypatch):
    monkeypatch.setattr(dashboard, "_TOTALS", "SELECT pg_sleep(5), 1, 1")
    monkeypatch.setattr(dashboard, "QUERY_MS", 50)
    page = viewer.see("")
    assert "too many to count" in page and "totals" in page


def test_nobody_waits_for_what_there_is_to_be_counted(viewer, monkeypatch):
    monkeypatch.setattr(dashboard, "FIRST_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(dashboard, "_TOTALS", "SELECT pg_sleep(0.5), 1, 1")
    assert "being counted" in viewer.see("")
    dashboard.wait_for_dashboard()
    assert "being counted" not in viewer.see("")


def test_a_search_by_user_id_leads_to_the_hash_and_leaves_the_id_nowhere(operator, remembered, logged, caplog):
    response = operator.post("/admin/find/", {"user_id": remembered.user_id})
    assert response.status_code == 302
    assert response.headers["Location"] == f"/admin/memory/tenantmeta/?user_hash={remembered.user_hash}"
    assert remembered.user_hash[:16] in operator.see("memory/tenantmeta/", user_hash=remembered.user_hash)
    assert logged(operator) == [("staff.find", remembered.user_hash, {})]
    told = json.dumps([record.getMessage() for record in caplog.records])
    assert remembered.user_id not in told + operator.see("memory/auditline/")


@pytest.mark.parametrize("user_id", ["", " alice", "x" * 129, "a\u0000b", "e\u0301"])
def test_an_impossible_user_id_is_refused(operator, user_id, logged):
    response = operator.post("/admin/find/", {"user_id": user_id}, follow=True)
    assert "user id" in response.content.decode()
    assert logged(operator) == []
