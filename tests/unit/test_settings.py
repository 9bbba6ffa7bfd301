"""What production settings refuse, each in a process of its own, as a deployment would meet it."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
OURS = ("MEMORY_", "DJANGO_", "DATABASE_", "RERANK_", "GUNICORN_", "R1_")
START = "import django; django.setup()"


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


GOOD = {
    "DJANGO_SETTINGS_MODULE": "r1site.settings.prod",
    "DATABASE_URL": "postgresql://r1_app@db.invalid/r1?sslmode=verify-full",
    "DJANGO_SECRET_KEY": secrets.token_urlsafe(48),
    "MEMORY_ENCRYPTION_KEY": key(),
    "MEMORY_TENANT_HMAC_KEY": key(),
    "MEMORY_JWT_SECRET": secrets.token_urlsafe(48),
    "MEMORY_METRICS_TOKEN": secrets.token_urlsafe(32),
}
SECRETS = [value for name, value in GOOD.items() if "KEY" in name or "SECRET" in name or "TOKEN" in name]


def python(code: str, **changes: str | None) -> subprocess.CompletedProcess:
    """Run `code` under the good production environment with `changes`; None takes a setting away."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(OURS) and name not in changes
    }
    environment |= {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )


def refusal(**changes: str | None) -> str:
    """What a start with `changes` says; it must fail, and show no secret."""
    done = python(START, **changes)
    assert done.returncode != 0
    ids = {"MEMORY_ENCRYPTION_ACTIVE_KEY"}
    for value in [*SECRETS, *(value for name, value in changes.items() if value and name not in ids)]:
        assert all(part.rpartition(":")[2] not in done.stderr for part in value.split(","))
    return done.stderr.strip().splitlines()[-1]


def test_a_good_environment_starts_without_the_embedded_server():
    code = START + "; import sys; print([name for name in sys.modules if name.startswith('r1site.embedded')])"
    done = python(code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_no_metrics_token_and_several_keys_start_too():
    several = {"MEMORY_ENCRYPTION_KEYS": f"a:{key()},b:{key()}", "MEMORY_ENCRYPTION_ACTIVE_KEY": "b"}
    done = python(START, MEMORY_METRICS_TOKEN=None, MEMORY_ENCRYPTION_KEY=None, **several)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    ["DATABASE_URL", "DJANGO_SECRET_KEY", "MEMORY_ENCRYPTION_KEY", "MEMORY_TENANT_HMAC_KEY", "MEMORY_JWT_SECRET"],
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
    assert python(START, **in_clear, MEMORY_ALLOW_PLAINTEXT="llm, database").returncode == 0
    assert "MEMORY_ALLOW_PLAINTEXT" in refusal(MEMORY_ALLOW_PLAINTEXT="everything")


@pytest.mark.parametrize(
    ("proxy", "sent"), [("true", "{'x': 'max-age=31536000'}"), ("false", "{}")], ids=["behind a proxy", "alone"]
)
def test_hsts_is_sent_over_https_behind_a_tls_proxy_only(proxy, sent):
    code = (
        START + "; from django.test import Client"
        "; answer = Client().get('/health/live', headers={'host': 'localhost', 'x-forwarded-proto': 'https'})"
        "; assert answer.status_code == 200"
        "; print({'x': v for k, v in answer.headers.items() if k == 'Strict-Transport-Security'})"
    )
    done = python(code, DJANGO_BEHIND_TLS_PROXY=proxy)
    assert done.stdout.strip() == sent, done.stderr


def test_backups_of_keys_that_are_kept_for_no_time_are_refused():
    done = python(START, MEMORY_KEY_BACKUP_RETENTION_DAYS="0")
    assert done.returncode != 0
    assert "MEMORY_KEY_BACKUP_RETENTION_DAYS" in done.stderr.strip().splitlines()[-1]
    assert python(START, MEMORY_KEY_BACKUP_RETENTION_DAYS="1").returncode == 0


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


def test_the_models_threads_spin_briefly_while_they_wait_unless_somebody_wants_otherwise():
    code = "import os, sys, r1site.wsgi; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    database = {"DATABASE_URL": "host=127.0.0.1 port=1 dbname=r1", "OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None}
    assert python(code, **database).stdout == "10000 False\n"
    assert python(code, **database | {"GOMP_SPINCOUNT": "7"}).stdout == "7 False\n"
    assert python(code, **database | {"OMP_WAIT_POLICY": "ACTIVE"}).stdout == "None False\n"
