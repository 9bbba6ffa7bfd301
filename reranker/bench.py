"""How long reranking takes: per dtype, by length, at several callers at once.

The times are those of `Reranker.rerank`, tokenising and queueing included, with nothing refused:
what a deadline would cut off shows in the percentiles.
"""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from reranker.config import RerankConfig
from reranker.reranker import Reranker
from reranker.results import RerankSkipped

_PATIENCE_MS = 600_000.0
_WARM_CALLS = 3
# Words that every English vocabulary has whole; shuffled, so that no two passages are equal.
_WORDS = re.findall(
    r"\w+",
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house",
)


Ask = Callable[[str, list[str]], Any]
Way = Literal["queue", "pass", "predict"]
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class BenchPlan:
    """What to measure: for each length and each number of callers, `queries` calls."""

    queries: int = 100
    candidates: int = 24
    token_counts: Sequence[int] = (64, 128, 256, 512)
    concurrencies: Sequence[int] = (1, 4, 16)


def run_bench(
    configs: Sequence[RerankConfig],
    plan: BenchPlan,
    progress: Callable[[str], None] = lambda line: None,
    *,
    way: Way = "queue",
) -> list[dict[str, Any]]:
    """Rows {backend, runtime, dtype, candidates, tokens, concurrency, p50_ms, p95_ms, p99_ms, per_second}.

    `tokens` is of a pair, special tokens included; `per_second` counts calls. A call
    that fails ends the bench with its `RerankSkipped`.
    `way` is how the calls reach the loaded model: through the `queue`; or behind a lock, one call at a
    time, as a service without a queue does it: in a `pass` of its own, or with sentence-transformers'
    own `predict`.
    """
    rows = []
    for config in configs:
        reranker = Reranker(replace(config, max_queued_tokens=2**40, stuck_after_seconds=_PATIENCE_MS / 1000))
        try:
            reranker.warm()
            # As a service does once its models are loaded: a full collection would stop it for 0.2 s.
            gc.collect()
            gc.freeze()
            for row in _rows(reranker, plan, _WAYS[way](reranker)):
                what = f"{row['backend']} {row['runtime']} {row['dtype']}"
                progress(f"{what} {row['tokens']} tokens, {row['concurrency']} callers: "
                         f"p50 {row['p50_ms']} ms, p95 {row['p95_ms']} ms, {row['per_second']}/s")  # fmt: skip
                rows.append(row)
        finally:
            gc.unfreeze()
            reranker.close()
    return rows


def _queued(reranker: Reranker) -> Ask:
    return lambda query, passages: reranker.rerank_or_raise(query, passages, timeout_ms=_PATIENCE_MS)


def _own_passes(reranker: Reranker) -> Ask:
    backend = reranker.ready_backend()
    return _one_at_a_time(lambda query, passages: backend.score(backend.prepare(query, passages, float("inf"))))


def _predict(reranker: Reranker) -> Ask:
    if reranker.metrics()["runtime"] != "torch":
        raise RerankSkipped("no_backend", "only torch's model has a predict of its own")
    model = reranker.cross_encoder()
    return _one_at_a_time(
        lambda query, passages: model.predict([(query, passage) for passage in passages], show_progress_bar=False)
    )


def _one_at_a_time(ask: Ask) -> Ask:
    lock = threading.Lock()

    def alone(query: str, passages: list[str]) -> Any:
        with lock:
            return ask(query, passages)

    return alone


_WAYS: dict[Way, Callable[[Reranker], Ask]] = {"queue": _queued, "pass": _own_passes, "predict": _predict}


def _rows(reranker: Reranker, plan: BenchPlan, ask: Ask) -> Iterator[dict[str, Any]]:
    metrics = reranker.metrics()
    if metrics["state"] != "ready":
        raise RerankSkipped(metrics.get("reason") or "no_backend", metrics["detail"])
    for tokens in plan.token_counts:
        calls = [synthetic_call(reranker, seed, plan.candidates, tokens) for seed in range(plan.queries)]
        for call in calls[:_WARM_CALLS]:
            ask(*call)
        for concurrency in plan.concurrencies:
            took_ms, seconds = _timed(ask, calls, concurrency)
            p50, p95, p99 = np.percentile(took_ms, [50, 95, 99]).round(2).tolist()
            yield {
                "backend": metrics["backend"],
                "runtime": metrics["runtime"],
                "dtype": metrics["dtype"],
                "candidates": plan.candidates,
                "tokens": tokens,
                "concurrency": concurrency,
                "p50_ms": p50,
                "p95_ms": p95,
                "p99_ms": p99,
                "per_second": round(len(calls) / seconds, 2),
            }


def _timed(ask: Ask, calls: Sequence[tuple[str, list[str]]], concurrency: int) -> tuple[list[float], float]:
    """Milliseconds of each call, and seconds of all, with `concurrency` callers kept busy."""

    def one(call: tuple[str, list[str]]) -> float:
        started = time.perf_counter()
        ask(*call)
        return (time.perf_counter() - started) * 1000

    with ThreadPoolExecutor(concurrency) as callers:
        started = time.perf_counter()
        took_ms = list(callers.map(one, calls))
        return took_ms, time.perf_counter() - started


def synthetic_call(reranker: Reranker, seed: int, candidates: int, tokens: int) -> tuple[str, list[str]]:
    """A query of 8 words and passages that make pairs of `tokens` tokens with it, or just under."""
    random = np.random.default_rng(seed)
    query = " ".join(random.choice(_WORDS, 8))
    passages = [list(random.choice(_WORDS, tokens)) for _ in range(candidates)]
    backend = reranker.ready_backend()
    too_long = True
    while too_long:  # words can be several tokens each
        pairs = backend.prepare(query, [" ".join(words) for words in passages], float("inf"))
        over = [len(pair.content.ids) - tokens for pair in pairs]
        too_long = any(more > 0 and len(words) > 1 for more, words in zip(over, passages, strict=True))
        passages = [
            words[: max(1, len(words) - max(0, more) // 6 - (more > 0))]
            for more, words in zip(over, passages, strict=True)
        ]
    return query, [" ".join(words) for words in passages]
