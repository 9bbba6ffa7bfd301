"""GET /health/live and /health/ready."""

from __future__ import annotations

import threading
import time

from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import JsonResponse
from psycopg_pool import PoolTimeout

from memory.environment import SettingError
from memory.errors import MemoryServiceError
from memory.master_keys import master_keys, tenant_hmac_key
from memory.retrieval.models import loaded_embedder
from memory.rls import verify_rls_isolation
from memory.spaces import active_space
from r1site.problems import allow_methods

READY_CACHE_SECONDS = 3.0

_lock = threading.Lock()
_cached: tuple[float, dict] | None = None


@allow_methods("GET", "HEAD")
def live(request):
    """200 as long as the process answers; touches nothing."""
    return JsonResponse({"status": "ok"})


@allow_methods("GET", "HEAD")
def ready(request):
    """Each component as ok, degraded or failed; 503 while one has failed. Cached for 3 s."""
    global _cached
    with _lock:
        if _cached is None or time.monotonic() - _cached[0] >= READY_CACHE_SECONDS:
            _cached = (time.monotonic(), _components())
        components = _cached[1]
    statuses = {component["status"] for component in components.values()}
    status = "failed" if "failed" in statuses else "degraded" if "degraded" in statuses else "ok"
    return JsonResponse({"status": status, "components": components}, status=503 if status == "failed" else 200)


def _components() -> dict[str, dict]:
    checks = {
        "database": _database,
        "role": _role,
        "migrations": _migrations,
        "keys": _keys,
        "embedder": _embedder,
        "reranker": _reranker,
    }
    components = {}
    for name, check in checks.items():
        try:
            components[name] = check()
        except (DatabaseError, PoolTimeout, MemoryServiceError, SettingError) as exc:
            components[name] = {"status": "failed", "reason": type(exc).__name__}
    connections["default"].close()
    return components


def _database() -> dict:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT 1")
    return {"status": "ok"}


def _role() -> dict:
    findings = verify_rls_isolation(connections["default"])
    return {"status": "failed", "findings": len(findings)} if findings else {"status": "ok"}


def _migrations() -> dict:
    executor = MigrationExecutor(connections["default"])
    unapplied = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {"status": "failed", "unapplied": len(unapplied)} if unapplied else {"status": "ok"}


def _keys() -> dict:
    tenant_hmac_key()
    return {"status": "ok", "master_keys": len(master_keys().keys)}


def _embedder() -> dict:
    embedder = loaded_embedder()
    if embedder is None:
        return {"status": "failed", "reason": "not loaded"}
    active_space(embedder)
    return {"status": "ok", "model": embedder.model_name, "device": str(embedder.device)}


def _reranker() -> dict:
    """Candidate order serves as long as no reranker is installed; answers say so."""
    return {"status": "ok", "backend": "none"}
