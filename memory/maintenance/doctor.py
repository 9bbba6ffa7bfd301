"""Everything that an operator looks at before a deploy, in one pass: each by itself, so that all problems are told.

Longer than 250 lines: one check after the other, none of which has a part in another.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings
from django.core import checks
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

from memory.embedding.process import configured_embedders
from memory.errors import MemoryServiceError
from memory.keys.receipt_keys import receipt_keys
from memory.keys.secret_files import SettingError
from memory.maintenance.diagnosis import Finding, Status
from memory.maintenance.endpoint import look_at_health, look_at_metrics
from memory.maintenance.key_status import key_status
from memory.maintenance.rls_probe import probe_two_users
from memory.retrieval.reranker_config import deployed_config
from memory.rls import verify_rls_isolation
from memory.rollout.flags import read_flags
from reranker.backends.built_form import has_weights

POSTGRESQL_LEAST, PGVECTOR_LEAST, PGVECTOR_GOOD = 15, (0, 7), (0, 8)
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 1.0, 30.0
DISK_WARN_SHARE, DISK_FAIL_SHARE = 0.15, 0.05
# What expired longer ago should be gone: `prune_expired` runs daily.
OVERDUE_HOURS = 48
POLICIES = 4

_ROOM = """
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer"""
_PENDING = """
SELECT (SELECT count(*) FROM (
            SELECT FROM memory_documents WHERE expires_at < now() - make_interval(hours => %s) LIMIT 10000) d),
       (SELECT count(*) FROM memory_moves)"""
_FAILURES = (Error, MemoryServiceError, SettingError, OSError)


def examine(*, endpoint: str | None = None) -> list[Finding]:
    """Look at everything; raises nothing that a deployment can be the reason for.

    `endpoint`: the address of a service that runs, such as http://127.0.0.1:8123, whose health and metrics are asked
    for; without it they are not looked at.
    """
    findings = [*_settings(), *_guarded("keys", _receipts), *_guarded("models", _models), *_guarded("disk", _disk)]
    database = _guarded("database", _database)
    findings += database
    if all(finding.status != "fail" for finding in database):
        for check, look in (
            ("pool", _pool), ("isolation", _isolation), ("migrations", _migrations), ("keys", _keys),
            ("flags", _flags), ("clock", _clock), ("pending", _pending),
        ):  # fmt: skip
            findings += _guarded(check, look)
    if endpoint is not None:
        findings += _guarded("health", lambda: look_at_health(endpoint))
        findings += _guarded("metrics", lambda: look_at_metrics(endpoint, settings.MEMORY_METRICS_TOKEN))
    return findings


def _guarded(check: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What `look` finds; where it cannot look, that."""
    found: list[Finding] = []
    try:
        found.extend(look())
    except _FAILURES as exc:
        cause = exc.__cause__ or exc
        # Of a statement the kind of error alone: the server's message may quote what somebody stored.
        words = str(exc) if isinstance(exc, SettingError) else getattr(exc, "detail", None) or type(cause).__name__
        found.append(Finding(check, "fail", f"cannot be looked at: {words}", _HINTS.get(check, "")))
    return found


_HINTS = {
    "database": "see that PostgreSQL runs and DATABASE_URL names it (deploy/guide/serving.md)",
    "keys": "DATABASE_MAINT_URL must let r1_maint in; the keys are told in deploy/guide/encryption.md",
    "pending": "DATABASE_MAINT_URL must let r1_maint in",
    "migrations": "run `python manage.py migrate --database owner`",
    "isolation": "run `python manage.py verify_rls`, then deploy/runbooks/rls_alarm.md",
}


def _settings() -> Iterator[Finding]:
    problems = [each for each in checks.run_checks() if each.level >= checks.WARNING and not each.is_silenced()]
    for problem in problems:
        is_grave = problem.level >= checks.ERROR
        yield Finding("settings", "fail" if is_grave else "warn", problem.msg, problem.hint or "")
    if not problems:
        yield Finding("settings", "ok", f"{settings.SETTINGS_MODULE}: every value is in range, and they fit together")
    if settings.MEMORY_ALLOW_PLAINTEXT:
        allowed = ", ".join(sorted(settings.MEMORY_ALLOW_PLAINTEXT))
        yield Finding(
            "settings",
            "warn",
            f"plaintext is allowed to: {allowed}",
            "encrypt these, then clear MEMORY_ALLOW_PLAINTEXT",
        )
    if not settings.MEMORY_METRICS_TOKEN:
        yield Finding(
            "settings", "warn", "MEMORY_METRICS_TOKEN is not set: only this host can scrape", "set it, as a file"
        )


def _database() -> Iterator[Finding]:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version_num')::integer, current_user::text, "
                       "(SELECT extversion FROM pg_extension WHERE extname = 'vector')")  # fmt: skip
        version, user, vector = cursor.fetchone()
    major = version // 10_000
    is_old = major < POSTGRESQL_LEAST
    yield Finding(
        "database", "fail" if is_old else "ok", f"PostgreSQL {major}, as {user}",
        f"PostgreSQL {POSTGRESQL_LEAST} or newer is needed" if is_old else "",
    )  # fmt: skip
    if vector is None:
        yield Finding("pgvector", "fail", "not installed in this database", "CREATE EXTENSION vector, as its owner")
        return
    parts = tuple(int(part) for part in vector.split(".")[:2])
    status: Status = "fail" if parts < PGVECTOR_LEAST else "warn" if parts < PGVECTOR_GOOD else "ok"
    yield Finding("pgvector", status, vector, "" if status == "ok" else "0.8 or newer is recommended")


def _pool() -> Iterator[Finding]:
    with connections["default"].cursor() as cursor:
        cursor.execute(_ROOM)
        [room] = cursor.fetchone()
    workers = int(os.environ.get("WEB_CONCURRENCY") or max(1, (os.cpu_count() or 1) // 2))
    wanted = workers * settings.MEMORY_DB_POOL_MAX
    detail = f"{workers} workers of {settings.MEMORY_DB_POOL_MAX} connections; the server has room for {room}"
    if wanted > room:
        yield Finding(
            "pool", "fail", detail, "fewer workers, a smaller MEMORY_DB_POOL_MAX, or a larger max_connections"
        )
    elif wanted > room * 0.8:
        yield Finding("pool", "warn", detail, "little is left for commands and other hosts")
    else:
        yield Finding("pool", "ok", detail)


def _isolation() -> Iterator[Finding]:
    findings = verify_rls_isolation(connections["default"])
    for finding in findings:
        yield Finding("isolation", "fail", finding, "deploy/runbooks/rls_alarm.md")
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_policies WHERE tablename = 'memory_chunks'")
        [policies] = cursor.fetchone()
    if policies != POLICIES:
        yield Finding("policies", "fail", f"memory_chunks has {policies} of {POLICIES}", "deploy/runbooks/rls_alarm.md")
        return
    crossed = [] if findings else probe_two_users()
    for finding in crossed:
        yield Finding("isolation", "fail", finding, "deploy/runbooks/rls_alarm.md")
    if not findings and not crossed:
        yield Finding("isolation", "ok", "role, four policies, grants and partitions as made; two users tried in turn")


def _migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connections["default"])
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        names = ", ".join(str(migration) for migration, _ in waiting)
        yield Finding("migrations", "fail", f"not applied: {names}", _HINTS["migrations"])
    else:
        yield Finding("migrations", "ok", "all are applied")


def _receipts() -> Iterator[Finding]:
    yield Finding("keys", "ok", f"{len(receipt_keys())} receipt keys")


def _keys() -> Iterator[Finding]:
    status = key_status(connections["maint"])
    for finding in status["findings"]:
        yield Finding("keys", "warn", finding, "deploy/runbooks/key_rotation.md")
    held = [
        key for key in status["master_keys"] if key["state"] == "active" and key["workers"] > key["held_by_workers"]
    ]
    for key in held:
        detail = f"master key {key['key_id']} is held by {key['held_by_workers']} of {key['workers']} live workers"
        yield Finding("keys", "fail", detail, "deploy/runbooks/key_rotation.md")
    if not status["findings"] and not held:
        yield Finding("keys", "ok", f"{status['wraps']} wraps; {len(status['workers'])} live workers")


def _models() -> Iterator[Finding]:
    for embedder in configured_embedders():
        if (Path(settings.MEMORY_MODELS_DIR)).exists() and any(Path(settings.MEMORY_MODELS_DIR).iterdir()):
            yield Finding("models", "ok", f"{embedder.model_name}, built under {settings.MEMORY_MODELS_DIR}")
        else:
            yield Finding(
                "models", "warn", f"{embedder.model_name} is not built", "run `python manage.py build_models`"
            )
    config = deployed_config()
    if has_weights(config):
        yield Finding("reranker", "ok", f"the weights of {config.model} are here")
    else:
        yield Finding(
            "reranker", "warn", f"the weights of {config.model} are not here: answers come in candidate order",
            "fetch them once with network, or set CROSS_ENCODER_MODEL to a folder (deploy/runbooks/gpu.md)",
        )  # fmt: skip


def _flags() -> Iterator[Finding]:
    present = read_flags()
    if not present["MEMORY_ENABLED"]:
        yield Finding(
            "flags", "warn", "MEMORY_ENABLED is false: memory answers 503", "manage.py flags clear MEMORY_ENABLED"
        )
    else:
        yield Finding("flags", "ok", f"memory is on; {present['MEMORY_CANARY_PCT']} % of users have r1")


def _clock() -> Iterator[Finding]:
    began = time.time()
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        [theirs] = cursor.fetchone()
    ended = time.time()
    skew = max(0.0, began - theirs, theirs - ended)
    status: Status = "fail" if skew > SKEW_FAIL_SECONDS else "warn" if skew > SKEW_WARN_SECONDS else "ok"
    detail = f"this host and the database differ by {skew:.1f} s"
    yield Finding(
        "clock", status, detail, "" if status == "ok" else "tokens and expiry go by clocks: run an NTP client"
    )


def _disk() -> Iterator[Finding]:
    for folder in dict.fromkeys(_nearest(Path(path)) for path in (settings.MEMORY_MODELS_DIR, settings.BASE_DIR)):
        usage = shutil.disk_usage(folder)
        share = usage.free / usage.total
        status: Status = "fail" if share < DISK_FAIL_SHARE else "warn" if share < DISK_WARN_SHARE else "ok"
        detail = f"{folder}: {usage.free / 1e9:.1f} GB free, {share:.0%}"
        yield Finding("disk", status, detail, "" if status == "ok" else "make room before the deploy")


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return path if path.exists() else _nearest(path.parent)


def _pending() -> Iterator[Finding]:
    connection: BaseDatabaseWrapper = connections["maint"]
    with connection.cursor() as cursor:
        cursor.execute(_PENDING, [OVERDUE_HOURS])
        expired, moves = cursor.fetchone()
    if expired:
        detail = f"{expired:,} documents expired more than {OVERDUE_HOURS} hours ago and are still stored"
        yield Finding("pending", "warn", detail, "run `python manage.py prune_expired` daily")
    if moves:
        yield Finding(
            "pending", "warn", f"{moves:,} users are being moved", "finish it: the command that began it, again"
        )
    if not expired and not moves:
        yield Finding("pending", "ok", "nothing expired waits, and nobody is being moved")
