"""GET /health/live and /health/ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from django.db import DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import JsonResponse

import reranker
from memory.api.responses.operational import ComponentState, Readiness, liveness, readiness
from memory.embedding.embedder import Embedder
from memory.embedding.process import configured_embedders, loaded_embedder
from memory.embedding.spaces import default_space, embedder_of
from memory.errors import KeyUnavailable, MemoryServiceError, PromotionUnknown
from memory.keys.master_keys import has_master_keys, master_keys, tenant_hmac_key
from memory.keys.receipt_keys import receipt_keys
from memory.keys.secret_files import SettingError
from memory.rls import verify_rls_isolation
from memory.rollout.flags import flag
from memory.sealing.providers import probe_key_provider, require_key_providers
from r1site.pool_outage import is_pool_full
from r1site.problems import allow_methods

# How old an answer may be that is given without looking again.
READY_CACHE_SECONDS = 3.0
# While one thread looks, the others give the last answer up to this age: longer than the pool's
# wait for a database that is away, so that no thread but one waits in an outage.
READY_STALE_SECONDS = 15.0
# With no such answer, they wait this long for one.
READY_WAIT_SECONDS = 4.0

OK = ComponentState("ok")

_checking = threading.Lock()
_cached: tuple[float, dict[str, ComponentState]] | None = None


@allow_methods("GET", "HEAD")
def live(request):
    """200 as long as the process answers; touches nothing."""
    return JsonResponse(liveness())


@allow_methods("GET", "HEAD")
def ready(request):
    """Each component as ok, degraded or failed; 503 while one has failed. Cached for 3 s.

    One thread checks; the others answer what was found last. 503 without components where that is
    older than 15 s and no new answer comes within 4 s.
    """
    components = _latest_components()
    if components is None:
        found = Readiness("failed", reason="the checks take too long")
    else:
        statuses = {component.status for component in components.values()}
        found = Readiness(
            "failed" if "failed" in statuses else "degraded" if "degraded" in statuses else "ok", components
        )
    return JsonResponse(readiness(found), status=503 if found.status == "failed" else 200)


def _latest_components() -> dict[str, ComponentState] | None:
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


def _found_within(seconds: float) -> dict[str, ComponentState] | None:
    cached = _cached
    return cached[1] if cached and time.monotonic() - cached[0] < seconds else None


def _components() -> dict[str, ComponentState]:
    try:
        database = _outcome(_database)
        # Each question to a database that is away waits for the pool; one is enough.
        is_away = database.status != "ok"
        return {
            "database": database,
            "role": _unasked(database) if is_away else _outcome(_role),
            "migrations": _unasked(database) if is_away else _outcome(_migrations),
            "keys": _outcome(_keys),
            "embedder": _unasked(database) if is_away else _outcome(_embedder),
            **_next_embedder(),
            "reranker": _reranker(refresh=not is_away),
        }
    finally:
        connections["default"].close()


def _outcome(check: Callable[[], ComponentState]) -> ComponentState:
    try:
        return check()
    except (DatabaseError, MemoryServiceError, SettingError) as exc:
        return ComponentState("failed", type(exc).__name__)


def _unasked(database: ComponentState) -> ComponentState:
    return ComponentState(database.status, "database")


def _database() -> ComponentState:
    try:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as exc:
        if is_pool_full(exc.__cause__):
            # Busy with what others ask: no reason to send them elsewhere, where it would be the same.
            return ComponentState("degraded", "pool_full")
        raise
    return OK


def _role() -> ComponentState:
    findings = verify_rls_isolation(connections["default"])
    return ComponentState("failed", findings=len(findings)) if findings else OK


def _migrations() -> ComponentState:
    executor = MigrationExecutor(connections["default"])
    unapplied = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return ComponentState("failed", unapplied=len(unapplied)) if unapplied else OK


def _keys() -> ComponentState:
    tenant_hmac_key()
    receipt_keys()
    require_key_providers()
    known = len(master_keys().keys) if has_master_keys() else 0
    try:
        probe_key_provider()
    except PromotionUnknown:
        return ComponentState("degraded", "database", master_keys=known)
    except KeyUnavailable:
        # Users whose keys are open are served, for as long as these are kept: no reason to send them elsewhere.
        return ComponentState("degraded", "key_server", master_keys=known)
    return ComponentState("ok", master_keys=known)


def _embedder() -> ComponentState:
    embedder = loaded_embedder()
    if embedder is None:
        return ComponentState("failed", "not loaded")
    embedder_of(default_space())
    return _embeds(embedder)


def _embeds(embedder: Embedder) -> ComponentState:
    return ComponentState("ok", model=embedder.model_name, runtime=embedder.load().runtime, device=str(embedder.device))


def _next_embedder() -> dict[str, ComponentState]:
    """The second model, which users are being moved to, where there is one."""
    for embedder in configured_embedders()[1:]:
        if embedder.loaded:
            found = _embeds(embedder)
        else:
            # Not failed: users of the first model are served without it, and a worker out of service serves nobody.
            found = ComponentState("degraded", "not loaded", model=embedder.model_name)
        return {"next_embedder": found}
    return {}


def _reranker(*, refresh: bool) -> ComponentState:
    """As the flags have it at this moment. Never failed: without one, answers come in candidate order and say so."""
    wanted = flag("RERANK_BACKEND", refresh=refresh)
    if wanted == "none" or not flag("RERANK_ENABLED", refresh=refresh):
        return ComponentState("ok", backend="none")
    metrics = reranker.get_rerank_metrics(wanted)
    reason = None
    if metrics["state"] != "ready":
        reason = metrics.get("reason") or "not loaded"
    elif metrics["breaker"] != "closed" or metrics["stuck"]:
        reason = "circuit_open"
    # What runs it, and where, is known once the model is loaded.
    return ComponentState(
        *("degraded" if reason else "ok", reason, metrics["backend"], metrics["device"]), runtime=metrics.get("runtime")
    )
