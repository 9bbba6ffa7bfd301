"""How each signal of `decision` is measured: from metrics of the service's own page, or of a Prometheus server.

A failure is one of the service: a timeout or an error of its own. What clients cause (bad requests, rates, quotas) is
in neither number of a share, so no client can move one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from memory.rollout.decision import ALL, BY_NAME, NEW, SIGNALS, STABLE, Reading, Readings
from memory.rollout.exposition import Wanted

_FAILED = ("timeout", "server")
_JUDGED = ("ok", *_FAILED)
VARIANTS = (NEW, STABLE)
# What the service's page must have; the endings of histograms left out.
METRICS = (
    "memory_requests_total", "memory_variant_requests_total", "memory_query_latency_ms", "stream_ttfv_ms",
    "stream_total", "auth_ms", "rerank_ms", "memory_db_pool_in_use", "memory_db_pool_max", "memory_rls_denied_total",
    "memory_cross_tenant_attempts_total",
)  # fmt: skip


class Window(Protocol):
    """What happened in one span of time."""

    def increase(self, name: str, **wanted: Wanted) -> float: ...
    def quantile(self, q: float, name: str, **wanted: Wanted) -> tuple[float | None, float]: ...
    def mean(self, name: str) -> tuple[float | None, float]: ...


class Source(Protocol):
    """Where metrics come from; both times in seconds since 1970."""

    def look(self, now: float) -> None: ...
    def window(self, begin: float, end: float) -> Window: ...


def _share(failed: float, of: float) -> Reading:
    return Reading(failed / of if of > 0 else None, of)


def _query_errors(window: Window, variant: str) -> Reading:
    def count(outcomes: tuple[str, ...]) -> float:
        return window.increase("memory_requests_total", operation="query", variant=variant, outcome=outcomes)

    return _share(count(_FAILED), count(_JUDGED))


def _request_errors(window: Window, variant: str) -> Reading:
    def count(outcomes: tuple[str, ...]) -> float:
        return window.increase("memory_requests_total", variant=variant, outcome=outcomes)

    return _share(count(_FAILED), count(_JUDGED))


def _stream_success(window: Window, variant: str) -> Reading:
    def count(outcomes: tuple[str, ...]) -> float:
        return window.increase("stream_total", variant=variant, outcome=outcomes)

    return _share(count(("done",)), count(("done", "error")))


def _pool_share(window: Window) -> Reading:
    (used, n), (most, _) = window.mean("memory_db_pool_in_use"), window.mean("memory_db_pool_max")
    return Reading(used / most, n) if used is not None and most else Reading(None, 0)


def _stage_p95(stage: str) -> Callable[[Window, str], Reading]:
    return lambda window, variant: Reading(
        *window.quantile(0.95, "memory_query_latency_ms", stage=stage, variant=variant)
    )


_OF_A_VARIANT: Mapping[str, Callable[[Window, str], Reading]] = {
    "query_error_rate": _query_errors,
    "request_error_rate": _request_errors,
    "query_p95_ms": _stage_p95("total"),
    "ann_p95_ms": _stage_p95("ann"),
    "first_token_p95_ms": lambda window, variant: Reading(*window.quantile(0.95, "stream_ttfv_ms", variant=variant)),
    "stream_success": _stream_success,
}
_OF_THE_SERVICE: Mapping[str, Callable[[Window], Reading]] = {
    "rls_denied": lambda window: Reading(window.increase("memory_rls_denied_total"), 1),
    "contradictions": lambda window: Reading(window.increase("memory_cross_tenant_attempts_total"), 1),
    "auth_p95_ms": lambda window: Reading(*window.quantile(0.95, "auth_ms")),
    "rerank_p95_ms": lambda window: Reading(*window.quantile(0.95, "rerank_ms")),
    "pool_share": _pool_share,
}


def measure(window: Window, names: Iterable[str]) -> Readings:
    """These signals over a window."""
    return {
        name: {variant: _OF_A_VARIANT[name](window, variant) for variant in VARIANTS}
        if name in _OF_A_VARIANT
        else {ALL: _OF_THE_SERVICE[name](window)}
        for name in names
    }


def evaluations(source: Source, now: float, *, pace: float = 1.0, since: float = 0.0) -> tuple[Readings, Readings]:
    """The two halves of each signal's window that ends now, the earlier first: what `decide` judges.

    `pace` shortens all windows; nothing before `since` is looked at, as where the run began then.
    """
    earlier: dict[str, Mapping[str, Reading]] = {}
    latest: dict[str, Mapping[str, Reading]] = {}
    for seconds in sorted({signal.window_seconds for signal in SIGNALS}):
        names = [signal.name for signal in SIGNALS if signal.window_seconds == seconds]
        half = seconds * pace / 2
        if now - 2 * half >= since:
            earlier |= measure(source.window(now - 2 * half, now - half), names)
        latest |= measure(source.window(max(since, now - half), now), names)
    return earlier, latest


def of_stage(source: Source, now: float, began: float) -> Readings:
    """Every signal since the stage began."""
    return measure(source.window(began, now), BY_NAME)


def snapshot(source: Source, now: float, *, pace: float = 1.0, since: float = 0.0) -> Readings:
    """Every signal over its whole window that ends now."""
    read: dict[str, Mapping[str, Reading]] = {}
    for name, signal in BY_NAME.items():
        read |= measure(source.window(max(since, now - signal.window_seconds * pace), now), [name])
    return read
