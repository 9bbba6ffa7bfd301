"""The reranker under the names of the published plan: small proofs of each part, with a tiny model.

Where each part is tested in full: deploy/guide/reranking.md. On a GPU: `make gpu-test`.
"""

from __future__ import annotations

import threading

import pytest

import reranker
from reranker import RerankConfig
from tests import tiny_reranker
from tests.tiny_models import wait_until
from tests.tiny_reranker import PLENTY_MS, TEXTS

folder, tiny, gate = tiny_reranker.FIXTURES
BEST = TEXTS[3]
IN_CANDIDATE_ORDER = [(text, 1 - place / 5, place + 1) for place, text in enumerate(TEXTS)]


def told(results) -> list[tuple[str, float, int]]:
    return [(result.candidate, result.score, result.rank) for result in results]


class TestCrossEncoderInit:
    def test_nothing_is_loaded_until_somebody_asks_and_then_once(self, folder):
        reranker.configure(RerankConfig(model=str(folder), device="cpu"))
        try:
            assert reranker.get_rerank_metrics()["loads"] == 0
            assert reranker.get_cross_encoder() is reranker.get_cross_encoder()
            assert reranker.get_rerank_metrics()["loads"] == 1
        finally:
            reranker.close()
            reranker.configure(RerankConfig())


class TestReranking:
    def test_the_best_comes_first_and_none_is_lost(self, tiny):
        results = tiny.rerank("query", TEXTS, PLENTY_MS)
        assert results[0].candidate == BEST
        assert sorted(result.candidate for result in results) == sorted(TEXTS)
        assert [result.rank for result in results] == [1, 2, 3, 4, 5]
        scores = [result.score for result in results]
        assert scores == sorted(scores, reverse=True)


class TestCircuitBreaker:
    def test_calls_that_take_too_long_open_it_and_the_next_does_not_reach_the_model(self, tiny, gate):
        may_probe = threading.Event()
        # The probe that may close it again waits for the end of the test.
        gate.before = lambda pairs: may_probe.wait(60) if tiny.metrics()["breaker"] != "closed" else None
        for _ in range(10):
            gate.hold()
            assert told(tiny.rerank("query", TEXTS, 250)) == IN_CANDIDATE_ORDER
            gate.release()
            wait_until(lambda: tiny.metrics()["queued_tokens"] == 0, "the model has ended")
            if tiny.metrics()["breaker"] != "closed":
                break
        try:
            skipped = tiny.maybe_rerank("query", TEXTS, enabled=True, timeout_ms=PLENTY_MS)
            assert (list(skipped), skipped.reranked, skipped.skipped) == (TEXTS, False, "circuit_open")
        finally:
            may_probe.set()


class TestFeatureFlag:
    @pytest.mark.parametrize(("said", "first"), [("true", BEST), ("false", TEXTS[0])])
    def test_rerank_enabled_decides_who_comes_first(self, tiny, monkeypatch, said, first):
        monkeypatch.setenv("RERANK_ENABLED", said)
        assert tiny.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS)[0] == first


class TestMetrics:
    def test_each_skipped_call_is_counted_and_reranked_ones_are_not(self, tiny):
        tiny.rerank("query", TEXTS, PLENTY_MS)
        assert tiny.metrics()["rerank_skipped_total"] == 0
        for expected in (1, 2, 3):
            tiny.rerank("query", TEXTS, 0)
            assert tiny.metrics()["rerank_skipped_total"] == expected
        assert tiny.metrics()["rerank_latency_ms"].keys() >= {"p50", "p95", "max"}
        assert tiny.metrics()["device"] == "cpu"


class TestLatency:
    def test_rerank_latency_under_budget(self, tiny, gate):
        """A call with a budget comes back by itself though the model never does. How fast a good one is, `rerank_bench` says."""  # noqa: E501
        gate.hold()
        answers: list = []
        caller = threading.Thread(target=lambda: answers.append(tiny.rerank("query", TEXTS, 100)), daemon=True)
        caller.start()
        caller.join(60)
        assert not gate.may_pass.is_set()
        assert answers and told(answers[0]) == IN_CANDIDATE_ORDER
