"""The reranker's published budget, on whatever this machine has: `make nonregression`.

The weights are random, in the shape of the default model: what they cost is the same. `make gpu-test` has it on a GPU.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from deploy.bench.tiny_reranker import build
from reranker import RerankConfig, Reranker
from tests.non_regression.conftest import RUNS, Targets

pytestmark = pytest.mark.measured

CALLS = 100
# Of about 256 tokens together with the question.
PASSAGE = "The heat pump was serviced in March and its filter is changed every six months by the people who know. " * 10


@pytest.fixture(scope="module")
def reranker(tmp_path_factory) -> Reranker:
    folder = build(tmp_path_factory.mktemp("tiny") / "model")
    reranker = Reranker(RerankConfig(backend="cross_encoder", model=str(folder)))
    assert reranker.warm(120)
    return reranker


@pytest.mark.parametrize(("candidates", "limit_ms"), [(24, 150), (8, 50)])
def test_rerank_latency_under_budget(reranker, targets: Targets, candidates, limit_ms):
    p95s, reranked = [], []
    for _ in range(RUNS):
        laps_ms, done = [], 0
        for call in range(CALLS):
            texts = [f"{number} {call}: {PASSAGE}" for number in range(candidates)]
            started = time.perf_counter()
            done += reranker.maybe_rerank("When was the heat pump serviced?", texts).reranked
            laps_ms.append((time.perf_counter() - started) * 1000)
        p95s.append(float(np.percentile(laps_ms, 95)))
        reranked.append(100 * done / CALLS)
    device = reranker.metrics()["device"]
    targets.at_most(f"rerank p95, {candidates} candidates, {device}", limit_ms, p95s)
    targets.at_least(f"reranked within 250 ms, {candidates} candidates, {device}", 99, reranked)
