"""Who comes in, at which host name, for how long, and what the role behind the pages may reach."""

from __future__ import annotations

import io
import json
import uuid

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from psycopg import errors

from memory.isolation.audit import STAFF_VIEWS
from memory.staff import site
from tests.db.server import connect
from tests.staff.conftest import HOST, Staff

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint", "staff"])

STAFF_TABLES = ("auth_user", "auth_group", "django_session", "axes_accessattempt", "django_admin_log", "memory_audit")


def test_staffs_pages_are_at_staffs_host_name_and_the_api_is_not(operator, alice):
    assert operator.get("/admin/").status_code == 200
    assert operator.get("/").headers["Location"] == "/admin/"
    for path in ("/api/v1/memory/stats", "/api/v1/docs", "/console/", "/metrics", "/anything"):
        assert operator.get(path, headers={"authorization": f"Bearer {alice.token()}"}).status_code == 404
    assert operator.get("/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", "/admin/static/admin/css/base.css"])
def test_at_the_apis_host_name_there_are_none_of_them(operator, path):
    response = operator.get(path, headers={"host": "127.0.0.1"})
    assert response.status_code == 404
    assert response.json()["code"] == "no_such_route"


def test_the_api_sets_no_cookie_and_heeds_none(operator, alice):
    response = alice.get("memory/stats")
    assert not response.cookies and "Content-Security-Policy" not in response.headers
    refused = operator.get("/api/v1/memory/stats", headers={"host": "127.0.0.1"})
    assert refused.status_code == 401


def test_without_a_login_every_page_leads_to_it():
    stranger = Client(headers={"host": HOST})
    for path in ("", "memory/tenantmeta/", "memory/auditline/", "find/", "memory/staffflag/"):
        response = stranger.get(f"/admin/{path}")
        assert response.status_code == 302 and response.headers["Location"].startswith("/admin/login/")


def test_a_session_is_short_its_cookies_stay_here_and_the_pages_load_nothing_from_elsewhere(hired):
    staff = hired()
    page = staff.get("/admin/login/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "no-store" in page.headers["Cache-Control"]
    staff.log_in()
    session, csrf = staff.cookies["r1_staff"], staff.cookies["r1_staff_csrf"]
    for cookie in (session, csrf):
        assert (cookie["samesite"], cookie["path"], cookie["httponly"]) == ("Strict", "/admin/", True)
    # Until the browser is closed; and half an hour in the table.
    assert session["max-age"] == "" and staff.session.get_expire_at_browser_close()
    assert staff.session.get_session_cookie_age() == 1800


def test_a_form_from_elsewhere_is_refused(hired):
    staff = hired("--operator")
    careful = Staff(staff.name, staff.password, enforce_csrf_checks=True)
    assert careful.log_in().status_code == 403
    token = careful.get("/admin/login/").context["csrf_token"]
    entered = careful.post(
        "/admin/login/?next=/admin/",
        {"username": staff.name, "password": staff.password, "csrfmiddlewaretoken": str(token)},
    )
    assert entered.status_code == 302
    assert careful.post("/admin/memory/staffflag/", {"name": "RERANK_POOL", "value": "12"}).status_code == 403
    assert careful.post("/admin/find/", {"user_id": "alice"}).status_code == 403


def test_who_guesses_passwords_has_to_wait_and_others_do_not(hired):
    victim, other = hired(), hired()
    for _ in range(5):
        last = victim.log_in("wrong")
    assert last.status_code == 429
    assert victim.log_in().status_code == 429
    assert victim.get("/admin/").status_code == 302
    assert other.log_in().status_code == 302


def test_one_changes_ones_own_password_and_stays(hired):
    staff = hired()
    staff.log_in()
    new = {"old_password": staff.password, "new_password1": "heron over water 7", "new_password2": "heron over water 7"}
    assert staff.post("/admin/password_change/", {**new, "old_password": "wrong"}).status_code == 200
    changed = staff.post("/admin/password_change/", new)
    assert changed.status_code == 302 and staff.get("/admin/").status_code == 200
    other = Staff(staff.name, staff.password)
    assert other.log_in().status_code == 200
    assert other.log_in("heron over water 7").status_code == 302


def test_passwords_are_weighed_one_at_a_time(hired):
    staff = hired()
    with site._weighing:
        refused = staff.log_in()
        assert refused.status_code == 429 and refused.headers["Retry-After"] == "1"
        assert staff.get("/admin/login/").status_code == 200
    assert staff.log_in().status_code == 302


def test_ended_sessions_are_pruned(hired):
    staff = hired()
    staff.log_in()
    key = staff.session.session_key
    with connect("r1_maint") as maint:
        maint.execute("UPDATE django_session SET expire_date = now() WHERE session_key = %s", [key])
    call_command("prune_expired", stdout=io.StringIO(), stderr=io.StringIO())
    with connect("r1_maint") as maint:
        left = maint.execute("SELECT count(*) FROM django_session WHERE session_key = %s", [key])
        assert left.fetchone() == (0,)


def test_an_account_is_made_given_other_rights_and_disabled_each_with_its_line(hired, logged, capsys):
    staff = hired()
    assert staff.log_in().status_code == 302
    call_command("create_staff", staff.name, "--operator")
    made = json.loads(capsys.readouterr().out)
    assert (made["role"], made["new"]) == ("operators", False)
    # The session of the old password is no longer one.
    assert staff.get("/admin/").status_code == 302
    assert staff.log_in(made["password"]).status_code == 302
    assert staff.get("/admin/find/").status_code == 200
    call_command("create_staff", staff.name, "--disable")
    assert staff.get("/admin/").status_code == 302
    assert staff.log_in(made["password"]).status_code == 200
    with connect("r1_maint") as maint:
        rows = maint.execute("SELECT action FROM memory_audit WHERE subject = %s ORDER BY id", [staff.name]).fetchall()
    assert [action for (action,) in rows] == ["staff.create", "staff.change", "staff.disable"]


@pytest.mark.parametrize("password", ["short", "1qaz2wsx3edc", "123456789012", ""])
def test_a_password_that_is_easily_guessed_is_refused(password, monkeypatch, transactional_db):
    monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
    with pytest.raises(CommandError):
        call_command("create_staff", name := f"eve-{uuid.uuid4().hex}", "--password-stdin")
    with connect("r1_maint") as maint:
        assert maint.execute("SELECT count(*) FROM auth_user WHERE username = %s", [name]).fetchone() == (0,)


@pytest.mark.parametrize(
    "arguments", [["a b\n"], ["x" * 151], ["ada", "--disable", "--operator"], ["nobody-there", "--disable"]]
)
def test_an_impossible_account_is_refused(arguments, transactional_db):
    with pytest.raises(CommandError):
        call_command("create_staff", *arguments)


@pytest.mark.parametrize("table", STAFF_TABLES)
def test_the_service_knows_nothing_of_staff(transactional_db, table):
    with connect("r1_app") as app, pytest.raises(errors.InsufficientPrivilege):
        app.execute(f"SELECT 1 FROM {table}")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO auth_user (username, password, is_superuser, is_staff, is_active, first_name, last_name, email,"
        " date_joined) VALUES ('eve', '', true, true, true, '', '', '', now())",
        "UPDATE auth_user SET is_superuser = true",
        "UPDATE auth_user_groups SET group_id = group_id",
        "DELETE FROM auth_user",
        "INSERT INTO auth_group (name) VALUES ('gods')",
        "SELECT tenant_key_check FROM memory_spaces",
        "SELECT * FROM memory_spaces",
        "SELECT s FROM memory_spaces s",
        "UPDATE memory_audit SET actor = 'nobody'",
        "DELETE FROM memory_audit",
        "UPDATE memory_master_keys SET retired_at = NULL",
        "UPDATE memory_rollouts SET percent = 100",
        "SELECT 1 FROM django_admin_log",
    ],
)
def test_staffs_role_makes_no_staff_reads_no_check_and_forges_nothing(transactional_db, statement):
    with connect("r1_staff") as staff, pytest.raises(errors.InsufficientPrivilege):
        staff.execute(statement)


@pytest.mark.parametrize("view", STAFF_VIEWS)
def test_a_view_gives_staff_no_sealed_column_and_no_vector_in_any_form(transactional_db, view):
    table = view.removesuffix("_meta")
    with connect("r1_staff") as staff, connect("r1_backup") as backup:
        shown = {column.name for column in staff.execute(f"SELECT * FROM {view} LIMIT 0").description}
        stored = {column.name for column in backup.execute(f"SELECT * FROM {table} LIMIT 0").description}
        hidden = {
            name for name in stored if name.endswith("_cipher") or name in ("embedding", "sealed_key", "content_mac")
        }
        assert not hidden & shown
        for what in (*sorted(stored - shown), f"({table}.*)::text", "to_jsonb(t)"):
            with pytest.raises((errors.InsufficientPrivilege, errors.UndefinedColumn, errors.UndefinedTable)):
                staff.execute(f"SELECT {what} FROM {table} t")
            if what in stored:
                with pytest.raises(errors.UndefinedColumn):
                    staff.execute(f"SELECT {what} FROM {view} t")
