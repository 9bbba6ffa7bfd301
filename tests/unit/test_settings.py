"""What production settings refuse: the settings read anew under the environment of a deployment.

Where the subject is what a process has loaded, how it ends or what it logs, it is a process of its own.
"""

from __future__ import annotations

import base64
import importlib
import os
import secrets
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, override_settings

from memory.keys.master_keys import forget_parsed_keys
from r1site.embedded.socket_folder import socket_dir
from r1site.settings.development_secrets import NAMES

PROJECT = Path(__file__).resolve().parents[2]
OURS = ("MEMORY_", "DJANGO_", "DATABASE_", "RERANK_", "GUNICORN_", "R1_", "PG")
START = "import django; django.setup()"
READ_ANEW = ("r1site.settings.base", "r1site.settings.prod", "r1site.settings.test")


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


GOOD = {
    "DJANGO_SETTINGS_MODULE": "r1site.settings.prod",
    "DATABASE_URL": "postgresql://r1_app@db.invalid/r1?sslmode=verify-full",
    "DJANGO_SECRET_KEY": secrets.token_urlsafe(48),
    "MEMORY_ENCRYPTION_KEY": key(),
    "MEMORY_TENANT_HMAC_KEY": key(),
    "MEMORY_RECEIPT_KEY": key(),
    "MEMORY_JWT_SECRET": secrets.token_urlsafe(48),
    "MEMORY_METRICS_TOKEN": secrets.token_urlsafe(32),
}
SECRETS = [value for name, value in GOOD.items() if "KEY" in name or "SECRET" in name or "TOKEN" in name]


def environment(**changes: str | None) -> dict[str, str]:
    """The good production environment with `changes`; None takes a setting away."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in changes}
    return others | {name: value for name, value in {**GOOD, **changes}.items() if value is not None}


def python(code: str, **changes: str | None) -> subprocess.CompletedProcess:
    """Run `code` in a process of its own under `environment(**changes)`."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment(**changes),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@contextmanager
def read_anew(name: str = "r1site.settings.prod", **changes: str | None) -> Iterator[ModuleType]:
    """The settings module as a start under `environment(**changes)` reads it; this process keeps its own."""
    kept = {each: sys.modules.pop(each) for each in READ_ANEW if each in sys.modules}
    forget_parsed_keys()
    try:
        with mock.patch.dict(os.environ, environment(**changes), clear=True):
            yield importlib.import_module(name)
    finally:
        forget_parsed_keys()
        for each in READ_ANEW:
            sys.modules.pop(each, None)
        sys.modules.update(kept)
        for each, module in kept.items():
            setattr(sys.modules["r1site.settings"], each.rpartition(".")[2], module)


def starts(**changes: str | None) -> bool:
    """Whether settings are made of it; raises ImproperlyConfigured where they are refused."""
    with read_anew(**changes) as settings:
        return settings.DATABASES["default"]["USER"] == "r1_app"


def refusal(**changes: str | None) -> str:
    """What a start with `changes` says; it must fail, and show no secret."""
    with pytest.raises(ImproperlyConfigured) as refused:
        starts(**changes)
    shown = "".join(traceback.format_exception(refused.value))
    ids = {"MEMORY_ENCRYPTION_ACTIVE_KEY"}
    for value in [*SECRETS, *(value for name, value in changes.items() if value and name not in ids)]:
        assert all(part.rpartition(":")[2] not in shown for part in value.split(","))
    return str(refused.value)


def test_a_good_environment_starts_without_the_embedded_server():
    code = START + "; import sys; print([name for name in sys.modules if name.startswith('r1site.embedded')])"
    done = python(code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_no_metrics_token_and_several_keys_start_too():
    several = {"MEMORY_ENCRYPTION_KEYS": f"a:{key()},b:{key()}", "MEMORY_ENCRYPTION_ACTIVE_KEY": "b"}
    assert starts(MEMORY_METRICS_TOKEN=None, MEMORY_ENCRYPTION_KEY=None, **several)


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URL",
        "DJANGO_SECRET_KEY",
        "MEMORY_ENCRYPTION_KEY",
        "MEMORY_TENANT_HMAC_KEY",
        "MEMORY_RECEIPT_KEY",
        "MEMORY_JWT_SECRET",
    ],
)
def test_a_missing_one_is_refused(name):
    said = refusal(**{name: None})
    assert name in said and "required" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DJANGO_SECRET_KEY", "django-insecure-" + "k3y" * 20),
        ("MEMORY_JWT_SECRET", "abcabcab" * 8),
        ("MEMORY_METRICS_TOKEN", "scrape-me"),
        ("MEMORY_ENCRYPTION_KEY", base64.b64encode(b"ab" * 16).decode()),
        ("MEMORY_TENANT_HMAC_KEY", base64.b64encode(b"too short").decode()),
        ("DJANGO_LOG_LEVEL", "VERBOSE"),
    ],
)
def test_a_weak_or_wrong_one_is_refused(name, value):
    assert name in refusal(**{name: value})


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("MEMORY_JWT_SECRET", "DJANGO_SECRET_KEY"),
        ("MEMORY_METRICS_TOKEN", "MEMORY_JWT_SECRET"),
        ("MEMORY_TENANT_HMAC_KEY", "MEMORY_ENCRYPTION_KEY"),
        ("MEMORY_JWT_SECRET", "MEMORY_ENCRYPTION_KEY"),
    ],
)
def test_two_that_are_equal_are_refused(name, other):
    said = refusal(**{name: GOOD[other]})
    assert name in said and other in said and "same value" in said


def test_one_key_in_two_spellings_is_one_key():
    raw = b"\xfb\xff" + secrets.token_bytes(30)
    spelled = base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()
    said = refusal(MEMORY_ENCRYPTION_KEY=spelled[0], MEMORY_TENANT_HMAC_KEY=spelled[1])
    assert "same value" in said


def test_one_key_under_two_ids_is_refused():
    one = key()
    said = refusal(
        MEMORY_ENCRYPTION_KEY=None, MEMORY_ENCRYPTION_KEYS=f"old:{one},new:{one}", MEMORY_ENCRYPTION_ACTIVE_KEY="new"
    )
    assert "same value" in said


def test_an_active_key_id_without_keys_to_choose_from_is_refused():
    assert "MEMORY_ENCRYPTION_ACTIVE_KEY" in refusal(MEMORY_ENCRYPTION_ACTIVE_KEY="second")


def test_every_connection_in_clear_is_told_at_once_unless_it_is_allowed_by_name():
    in_clear = {
        "DATABASE_URL": "postgresql://r1_app@db.invalid/r1?sslmode=require",
        "DATABASE_OWNER_URL": "postgresql://r1_owner@owner.invalid/r1",
        "DATABASE_STAFF_URL": "postgresql://r1_staff@staff.invalid/r1?sslmode=verify-full",
        "MEMORY_LLM_BASE_URL": "http://model.invalid/v1",
    }
    said = refusal(**in_clear)
    named = [part for part in said.replace(";", " ").split() if part.startswith(("DATABASE_", "MEMORY_LLM"))]
    assert sorted(named) == ["DATABASE_OWNER_URL", "DATABASE_URL", "MEMORY_LLM_BASE_URL"]
    assert starts(**in_clear, MEMORY_ALLOW_PLAINTEXT="llm, database")
    assert "MEMORY_ALLOW_PLAINTEXT" in refusal(MEMORY_ALLOW_PLAINTEXT="everything")


@pytest.mark.parametrize(
    ("proxy", "sent"), [("true", "max-age=31536000"), ("false", None)], ids=["behind a proxy", "alone"]
)
def test_hsts_is_sent_over_https_behind_a_tls_proxy_only(proxy, sent):
    names = ("SECURE_HSTS_SECONDS", "SECURE_PROXY_SSL_HEADER", "SECURE_CONTENT_TYPE_NOSNIFF", "ALLOWED_HOSTS")
    with read_anew(DJANGO_BEHIND_TLS_PROXY=proxy) as production:
        served = {name: getattr(production, name) for name in names}
    with override_settings(**served):
        answer = Client().get("/health/live", headers={"host": "localhost", "x-forwarded-proto": "https"})
        assert answer.status_code == 200
        assert answer.headers.get("Strict-Transport-Security") == sent
        in_clear = Client().get("/health/live", headers={"host": "localhost", "x-forwarded-proto": "http"})
        assert "Strict-Transport-Security" not in in_clear.headers


def test_staffs_host_name_is_its_own_and_its_cookies_go_over_https_alone():
    assert starts(DJANGO_ADMIN_HOSTS="staff.example.org", DJANGO_ALLOWED_HOSTS="memory.example.org")
    assert "own" in refusal(DJANGO_ADMIN_HOSTS="memory.example.org", DJANGO_ALLOWED_HOSTS="memory.example.org")
    with read_anew() as production:
        assert production.DJANGO_ADMIN_HOSTS == ()
        assert production.SESSION_COOKIE_SECURE and production.CSRF_COOKIE_SECURE


def test_backups_of_keys_that_are_kept_for_no_time_are_refused():
    with pytest.raises(ImproperlyConfigured, match="MEMORY_KEY_BACKUP_RETENTION_DAYS"):
        starts(MEMORY_KEY_BACKUP_RETENTION_DAYS="0")
    assert starts(MEMORY_KEY_BACKUP_RETENTION_DAYS="1")


def test_settings_that_do_not_fit_together_do_not_start():
    done = python("import r1site.wsgi", MEMORY_CHUNK_TOKENS="64", MEMORY_CHUNK_OVERLAP="40")
    assert done.returncode == 3
    assert "refusing to start: MEMORY_CHUNK_OVERLAP may be at most half" in done.stderr


def test_a_pool_that_one_user_can_hold_is_said():
    code = "import r1site.wsgi; print('serving')"
    small = {"MEMORY_DB_POOL_MAX": "4", "MEMORY_USER_CONCURRENCY": "4"}
    done = python(code, **small, DATABASE_URL="host=127.0.0.1 port=1 dbname=r1")
    assert done.stdout == "serving\n", done.stderr
    assert "MEMORY_DB_POOL_MAX (4) is not over MEMORY_USER_CONCURRENCY (4)" in done.stderr


def test_serving_waits_for_models_as_base_says_and_has_not_loaded_torch_before():
    code = "import os, sys, r1site.wsgi; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    database = {"DATABASE_URL": "host=127.0.0.1 port=1 dbname=r1", "OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None}
    assert python(code, **database).stdout == "10000 False\n"


@pytest.mark.parametrize(
    ("wanted", "count"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
    ids=["nothing said", "a count", "a policy"],
)
def test_the_models_threads_spin_briefly_while_they_wait_unless_somebody_wants_otherwise(wanted, count):
    with read_anew("r1site.settings.base", **{"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None} | wanted):
        assert os.environ.get("GOMP_SPINCOUNT") == count


def test_a_worker_of_the_suite_shares_no_server_and_no_key_with_the_process_that_started_it(tmp_path):
    inherited = {f"{name}_FILE": str(tmp_path / "suite" / "secrets" / name) for name in NAMES}
    at_work = {"R1_VAR_DIR": str(tmp_path), "PYTEST_XDIST_WORKER": "gw7", **dict.fromkeys(NAMES)}
    with read_anew("r1site.settings.test", **inherited, **at_work) as suite:
        own = tmp_path / "suite-gw7"
        assert own == suite.TEST_ROOT
        assert [os.environ[f"{name}_FILE"] for name in NAMES] == [str(own / "secrets" / name) for name in NAMES]
        assert {alias["HOST"] for alias in suite.DATABASES.values()} == {str(socket_dir(own / "postgres"))}
