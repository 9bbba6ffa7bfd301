"""The evidence of a performance approval: reranking by candidates, and the service's own queries and writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memory.maintenance.gate_lines import Line, measured
from memory.maintenance.gate_users import GateUser
from memory.retrieval.reranker_config import deployed_config
from memory.rls import bind_tenant
from memory.services.query import MemoryQuery, query_memory
from reranker import RerankConfig, RerankSkipped
from reranker.bench import BenchPlan, run_bench
from reranker.verify import verify

RERANKING, SERVICE = "reranking", "the service, one caller"
TOKENS, CANDIDATES = 256, (24, 8)
RERANK_P95_MAX_MS, QUERY_P95_MAX_MS, INDEX_P95_MAX_MS = 150.0, 350.0, 750.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rerank_calls: int = 100
    queries: int = 100
    writes: int = 40


def rerank_config(model: str | None) -> RerankConfig:
    """What the service runs here, or another model of the same settings."""
    deployed = replace(deployed_config(), backend="cross_encoder")
    return deployed if model is None else replace(deployed, model=model, revision=None, expected_sha256=None,
                                                  expected_files_sha256=None)  # fmt: skip


def rerank_lines(config: RerankConfig, plan: Plan, about: dict[str, Any]) -> Iterator[Line]:
    """p50, p95 and p99 of calls of each number of candidates; p95 has the limit. `about` is told the device."""
    seen = verify(config)
    about["reranker"] = {name: seen.get(name) for name in ("runtime", "device", "dtype", "model", "weights_sha256")}
    about["gpu"] = (seen.get("gpu") or {}).get("name")
    where = f"{seen.get('runtime')} on {seen.get('device')}, {seen.get('dtype')}"
    for candidates in CANDIDATES:
        what = f"{candidates} candidates of {TOKENS} tokens"
        try:
            [row] = run_bench([config], BenchPlan(plan.rerank_calls, candidates, (TOKENS,), (1,)))
        except RerankSkipped as exc:
            yield Line("performance", RERANKING, f"{what}, p95", f"< {RERANK_P95_MAX_MS:g} ms", f"none: {exc}", False)
            continue
        p50, p99 = row["p50_ms"], row["p99_ms"]
        check = f"{what}, p95 of {plan.rerank_calls} calls ({where}; p50 {p50:g} ms, p99 {p99:g} ms)"
        yield measured("performance", RERANKING, check, row["p95_ms"], RERANK_P95_MAX_MS, "ms")


def service_lines(user: GateUser, plan: Plan) -> Iterator[Line]:
    """p95 of writes of one document, embedding included, and of queries in the full pipeline, of a small memory."""
    yield _percentiles("index, one document", user.remember, plan.writes, INDEX_P95_MAX_MS)

    def ask() -> float:
        started = time.perf_counter()
        with bind_tenant(user.user_hash):
            reranked.append(query_memory(MemoryQuery(user.question)).reranked)
        return (time.perf_counter() - started) * 1000

    reranked: list[bool] = []
    line = _percentiles("query", ask, plan.queries, QUERY_P95_MAX_MS)
    yield replace(line, check=f"{line.check}, {sum(reranked)} of them reranked")


def _percentiles(what: str, call: Callable[[], float], calls: int, limit_ms: float) -> Line:
    # The first of a process loads what all others use.
    call()
    p50, p95, p99 = np.percentile([call() for _ in range(calls)], [50, 95, 99])
    check = f"{what}, p95 of {calls} calls (p50 {p50:.1f} ms, p99 {p99:.1f} ms)"
    return measured("performance", SERVICE, check, float(p95), limit_ms, "ms")
