"""GET /health/live and /health/ready."""

from __future__ import annotations

import threading
import time

from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import JsonResponse

import reranker
from memory.embedding.process import loaded_embedder
from memory.embedding.spaces import default_space, embedder_of
from memory.errors import MemoryServiceError
from memory.keys.master_keys import master_keys, tenant_hmac_key
from memory.keys.receipt_keys import receipt_keys
from memory.keys.secret_files import SettingError
from memory.rls import verify_rls_isolation
from memory.rollout.flags import flag
from r1site.pool_outage import is_pool_full
from r1site.problems import allow_methods

# How old an answer may be that is given without looking again.
READY_CACHE_SECONDS = 3.0
# While one thread looks, the others give the last answer up to this age: longer than the pool's
# wait for a database that is away, so that no thread but one waits in an outage.
READY_STALE_SECONDS = 15.0
# With no such answer, they wait this long for one.
READY_WAIT_SECONDS = 4.0

_checking = threading.Lock()
_cached: tuple[float, dict[str, dict]] | None = None


@allow_methods("GET", "HEAD")
def live(request):
    """200 as long as the process answers; touches nothing."""
    return JsonResponse({"status": "ok"})


@allow_methods("GET", "HEAD")
def ready(request):
    """Each component as ok, degraded or failed; 503 while one has failed. Cached for 3 s.

    One thread checks; the others answer what was found last. 503 without components where that is
    older than 15 s and no new answer comes within 4 s.
    """
    components = _latest_components()
    if components is None:
        return JsonResponse({"status": "failed", "reason": "the checks take too long", "components": {}}, status=503)
    statuses = {component["status"] for component in components.values()}
    status = "failed" if "failed" in statuses else "degraded" if "degraded" in statuses else "ok"
    return JsonResponse({"status": status, "components": components}, status=503 if status == "failed" else 200)


def _latest_components() -> dict[str, dict] | None:
    global _cached
    if found := _found_within(READY_CACHE_SECONDS):
        return found
    last = _found_within(READY_STALE_SECONDS)
    if not _checking.acquire(timeout=0 if last else READY_WAIT_SECONDS):
        return last
    try:
        found = _found_within(READY_CACHE_SECONDS)
        if not found:
            found = _components()
            # Stamped now, not before: in an outage the checks take longer than the answer is kept.
            _cached = (time.monotonic(), found)
        return found
    finally:
        _checking.release()


def _found_within(seconds: float) -> dict[str, dict] | None:
    cached = _cached
    return cached[1] if cached and time.monotonic() - cached[0] < seconds else None


def _components() -> dict[str, dict]:
    try:
        database = _outcome(_database)
        # Each question to a database that is away waits for the pool; one is enough.
        is_away = database["status"] != "ok"
        return {
            "database": database,
            "role": _unasked(database) if is_away else _outcome(_role),
            "migrations": _unasked(database) if is_away else _outcome(_migrations),
            "keys": _outcome(_keys),
            "embedder": _unasked(database) if is_away else _outcome(_embedder),
            "reranker": _reranker(refresh=not is_away),
        }
    finally:
        connections["default"].close()


def _outcome(check) -> dict:
    try:
        return check()
    except (DatabaseError, MemoryServiceError, SettingError) as exc:
        return {"status": "failed", "reason": type(exc).__name__}


def _unasked(database: dict) -> dict:
    return {"status": database["status"], "reason": "database"}


def _database() -> dict:
    try:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as exc:
        if is_pool_full(exc.__cause__):
            # Busy with what others ask: no reason to send them elsewhere, where it would be the same.
            return {"status": "degraded", "reason": "pool_full"}
        raise
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
    receipt_keys()
    return {"status": "ok", "master_keys": len(master_keys().keys)}


def _embedder() -> dict:
    embedder = loaded_embedder()
    if embedder is None:
        return {"status": "failed", "reason": "not loaded"}
    embedder_of(default_space())
    return {"status": "ok", "model": embedder.model_name, "device": str(embedder.device)}


def _reranker(*, refresh: bool) -> dict:
    """As the flags have it at this moment. Never failed: without one, answers come in candidate order and say so."""
    wanted = flag("RERANK_BACKEND", refresh=refresh)
    if wanted == "none" or not flag("RERANK_ENABLED", refresh=refresh):
        return {"status": "ok", "backend": "none"}
    metrics = reranker.get_rerank_metrics(wanted)
    backend = {"backend": metrics["backend"]}
    # Known once the model is loaded.
    if metrics["device"] is not None:
        backend["device"] = metrics["device"]
    if metrics["state"] != "ready":
        return {"status": "degraded", "reason": metrics.get("reason") or "not loaded", **backend}
    if metrics["breaker"] != "closed" or metrics["stuck"]:
        return {"status": "degraded", "reason": "circuit_open", **backend}
    return {"status": "ok", **backend}
