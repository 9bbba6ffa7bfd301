"""What an operator may do and a viewer may not, and the line that each deed leaves in the audit log."""

from __future__ import annotations

import pytest

from memory.rollout.flags import flag, forget_flags, set_flag
from tests.factories import DocumentFactory

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint", "staff"])


@pytest.fixture(autouse=True)
def _no_flags():
    forget_flags()
    yield
    set_flag("RERANK_POOL", None, actor="a test")
    forget_flags()


def chunk_keys(superuser, person) -> list[str]:
    rows = superuser.execute(
        "SELECT user_hash || '.' || id || '.' || space FROM memory_chunks WHERE user_hash = %s", [person.user_hash]
    )
    return [key for (key,) in rows]


def quarantined(superuser, person) -> int:
    found = superuser.execute(
        "SELECT count(*) FROM memory_chunks WHERE user_hash = %s AND quarantined_at IS NOT NULL", [person.user_hash]
    )
    return found.fetchone()[0]


def test_an_erasure_needs_the_digits_typed_and_leaves_nothing(operator, alice, bob, logged):
    for person in (alice, bob):
        DocumentFactory(person=person, text="The keeper counted the ships.")
    address = f"/admin/memory/tenantmeta/{alice.user_hash}/erase/"
    assert "1 documents" in operator.get(address).content.decode()
    for typed in ("", "00000000", alice.user_hash, bob.user_hash[:8]):
        assert operator.post(address, {"typed": typed}).status_code == 200
    assert alice.query("ships").json()["results"] and logged(operator) == []

    assert operator.post(address, {"typed": alice.user_hash[:8]}).status_code == 302
    assert "Erased: 1 documents, 1 chunks" in operator.see("memory/tenantmeta/")
    assert alice.query("ships").json()["results"] == []
    assert bob.query("ships").json()["results"]
    assert logged(operator) == [
        ("staff.erase", alice.user_hash, {"step": "begun"}),
        ("staff.erase", alice.user_hash, {"step": "done", "documents": 1, "chunks": 1}),
    ]
    assert operator.get(address).status_code == 404


def test_a_quarantined_chunk_is_found_by_nobody_until_it_is_released(operator, alice, bob, superuser, logged):
    for person in (alice, bob):
        DocumentFactory(person=person, text="The keeper counted the ships.")
    keys = chunk_keys(superuser, alice)
    listed = "/admin/memory/chunkmeta/?user_hash=" + alice.user_hash
    done = operator.post(listed, {"action": "quarantine", "_selected_action": keys}, follow=True)
    assert "Quarantined: 1 chunks" in done.content.decode()
    assert alice.query("ships").json()["results"] == [] and bob.query("ships").json()["results"]
    assert "notes/" in operator.see("memory/chunkmeta/", quarantined="yes", user_hash=alice.user_hash)

    operator.post(listed, {"action": "release", "_selected_action": keys})
    assert alice.query("ships").json()["results"]
    chunk = keys[0].split(".")[1]
    assert logged(operator) == [
        ("staff.quarantine", alice.user_hash, {"chunks": [chunk]}),
        ("staff.release", alice.user_hash, {"chunks": [chunk]}),
    ]


def test_rows_that_are_not_there_are_quarantined_by_no_name(operator, alice, superuser, logged):
    DocumentFactory(person=alice)
    keys = ["x", "", f"{'0' * 64}.{chunk_keys(superuser, alice)[0].split('.')[1]}.1", "' OR true --"]
    operator.post("/admin/memory/chunkmeta/", {"action": "quarantine", "_selected_action": keys, "select_across": "1"})
    assert quarantined(superuser, alice) == 0 and logged(operator) == []


def test_a_flag_is_set_and_given_back_to_its_setting(operator, logged, settings):
    operator.post("/admin/memory/staffflag/", {"name": "RERANK_POOL", "value": "12"})
    forget_flags()
    assert flag("RERANK_POOL") == 12
    page = operator.see("memory/staffflag/")
    assert "<code>12</code>" in page
    operator.post("/admin/memory/staffflag/", {"name": "RERANK_POOL", "value": ""})
    forget_flags()
    assert flag("RERANK_POOL") == settings.RERANK_POOL
    assert logged(operator) == [("flag.set", "RERANK_POOL", {"to": 12}), ("flag.clear", "RERANK_POOL", {"to": None})]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RERANK_POOL", "0", "a whole number from 1 to 100"),
        ("RERANK_POOL", "many", "whole number"),
        ("X", "1", "no such flag"),
    ],
)
def test_a_flag_takes_no_value_that_it_may_not_have(operator, logged, name, value, said):
    page = operator.post("/admin/memory/staffflag/", {"name": name, "value": value}, follow=True).content.decode()
    assert said in page and logged(operator) == []


def test_a_viewer_looks_and_does_nothing(viewer, alice, superuser, logged):
    DocumentFactory(person=alice, text="The keeper counted the ships.")
    erase = f"/admin/memory/tenantmeta/{alice.user_hash}/erase/"
    assert viewer.get(erase).status_code == 403
    assert viewer.post(erase, {"typed": alice.user_hash[:8]}).status_code == 403
    assert viewer.post("/admin/find/", {"user_id": alice.user_id}).status_code == 403
    assert viewer.post("/admin/memory/staffflag/", {"name": "RERANK_POOL", "value": "12"}).status_code == 403
    viewer.post("/admin/memory/chunkmeta/", {"action": "quarantine", "_selected_action": chunk_keys(superuser, alice)})
    assert quarantined(superuser, alice) == 0
    assert 'name="action"' not in viewer.see("memory/chunkmeta/")
    forget_flags()
    assert flag("RERANK_POOL") != 12 and alice.query("ships").json()["results"] and logged(viewer) == []


@pytest.mark.parametrize("deed", ["add", "delete", "change", "history"])
def test_nothing_is_added_changed_or_deleted_by_a_form_not_even_by_an_operator(operator, alice, deed):
    DocumentFactory(person=alice)
    row = f"/admin/memory/tenantmeta/{alice.user_hash}/"
    address = "/admin/memory/tenantmeta/add/" if deed == "add" else f"{row}{deed}/"
    response = operator.post(address, {"state": "erasing", "post": "yes"})
    assert response.status_code in (403, 404)
    assert alice.get("memory/stats").json()["documents"] == 1


def test_staff_itself_is_no_matter_of_these_pages(operator):
    for path in ("auth/user/", "auth/group/", "axes/accessattempt/", "sessions/session/", "admin/logentry/"):
        assert operator.get(f"/admin/{path}").status_code == 404
