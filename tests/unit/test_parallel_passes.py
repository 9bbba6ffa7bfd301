"""Forward passes side by side: the scores of one pass, and nothing left running when one of them fails."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker import RerankConfig
from reranker.backends import Pair
from reranker.backends.parallel_passes import ParallelPasses, _parts
from reranker.reranker import Reranker
from tests.tiny_models import ForwardGate, build_cross_encoder

PLENTY_MS = 60_000
QUERY = "what was said and when"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_cross_encoder(tmp_path_factory.mktemp("model") / "random", hand_set=False)


def reranker_of(folder, passes: int | None) -> Reranker:
    reranker = Reranker(RerankConfig(model=str(folder), device="cpu", dtype="float32", parallel_passes=passes))
    assert reranker.warm(60)
    return reranker


def pairs_of(tokens) -> list[Pair]:
    return [Pair(count, number) for number, count in enumerate(tokens)]


@pytest.mark.slow
def test_a_model_scores_the_same_as_one_pass_and_as_three(folder):
    texts = [f"it was {'plain ' * (7 * n % 40)}{'good' * (n % 3)} yesterday {n}" for n in range(24)]
    whole, shared = reranker_of(folder, 1), reranker_of(folder, 3)
    try:
        expected = {r.candidate: r.score for r in whole.rerank(QUERY, texts, PLENTY_MS)}
        found = {r.candidate: r.score for r in shared.rerank(QUERY, texts, PLENTY_MS)}
    finally:
        whole.close()
        shared.close()
    assert len(set(expected.values())) > 12
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_large_pass_is_shared_out_and_a_small_one_is_not(folder, monkeypatch):
    shared = reranker_of(folder, 2)
    gate = ForwardGate(shared, monkeypatch)
    try:
        shared.rerank(QUERY, ["plain"] * 7, PLENTY_MS)
        assert [len(batch) for batch in gate.batches] == [7]
        shared.rerank(QUERY, ["plain"] * 24, PLENTY_MS)
        assert sorted(len(batch) for batch in gate.batches[1:]) == [12, 12]
        assert gate.threads == {"reranker-cross_encoder", "reranker-pass-1"}
    finally:
        shared.close()


@pytest.mark.slow
def test_a_pass_beside_others_changes_nothing_for_threads_and_models_that_come_after_it(folder):
    """torch gives a thread that is new to it the number that was set last, wherever it was set."""
    code = f"""
from concurrent.futures import ThreadPoolExecutor
import torch
torch.set_num_threads(3)
from reranker import RerankConfig
from reranker.reranker import Reranker

def passes_of(reranker):
    return reranker.ready_backend()._parallel._cores

reranker = Reranker(RerankConfig(model={str(folder)!r}, device="cpu"))
assert reranker.warm(120) and passes_of(reranker) == 3, passes_of(reranker)
reranker.rerank("query", ["plain"] * 24, 60_000)
with ThreadPoolExecutor(1) as new_thread:
    assert new_thread.submit(torch.get_num_threads).result() == 3
reranker.close()
assert reranker.warm(120) and passes_of(reranker) == 3, passes_of(reranker)
reranker.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_pass_that_never_comes_back_does_not_hold_up_the_exit():
    code = """
import threading, time
from reranker.backends import Pair
from reranker.backends.parallel_passes import ParallelPasses
passes, entered = ParallelPasses(2, lambda threads: None), threading.Event()
def stuck(pairs):
    entered.set()
    time.sleep(600)
threading.Thread(target=passes.score, args=(stuck, [Pair(16, None)] * 8), daemon=True).start()
assert entered.wait(30)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("cores", "pairs", "threads"),
    [(2, 8, [1, 1]), (8, 8, [4, 4]), (8, 24, [1, 1, 1, 1, 2, 2]), (15, 32, [1] + [2] * 7), (2, 7, [])],
)
def test_all_the_cores_are_shared_out_over_the_passes_there_are(cores, pairs, threads):
    asked = []
    with closing(ParallelPasses(cores, asked.append)) as passes:
        passes.score(lambda some: np.zeros(len(some)), pairs_of([16] * pairs))
    # Last, the calling thread has all of them again.
    assert sorted(asked[:-1]) == threads and asked[-1:] == [cores] * bool(threads)


@pytest.mark.parametrize("fails", ["the first", "another", "both"])
def test_what_a_pass_raises_is_raised_when_none_runs_any_more(fails):
    running, threads = [], []

    def score(pairs):
        is_first = threading.current_thread() is threading.main_thread()
        threads.append(is_first)
        running.append(None)
        # The one that is well takes longer.
        time.sleep(0.0 if fails == "both" or (fails == "the first") == is_first else 0.2)
        running.pop()
        if fails == "both" or (fails == "the first") == is_first:
            raise ValueError("no")
        return np.zeros(len(pairs))

    with closing(ParallelPasses(2, lambda threads: None)) as passes, pytest.raises(ValueError, match="no"):
        passes.score(score, pairs_of([16] * 8))
    assert running == [] and sorted(threads) == [False, True]


@given(st.lists(st.integers(1, 512), min_size=1, max_size=64), st.integers(1, 16))
def test_every_pair_is_in_one_part_and_the_parts_are_alike(tokens, count):
    parts = _parts(tokens, count)
    assert sorted(i for part in parts for i in part) == list(range(len(tokens)))
    assert 1 <= len(parts) <= count and all(parts)
    lengths = [tokens[i] for part in parts for i in part]
    assert lengths == sorted(lengths, reverse=True)
    # None has more than its share by more than its pairs are long.
    assert max(sum(tokens[i] for i in part) for part in parts) <= sum(tokens) / count + 2 * max(tokens)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=64), st.integers(1, 8))
def test_scores_come_back_in_the_order_of_the_pairs(tokens, cores):
    def by_number(pairs):
        return np.array([pair.content for pair in pairs], dtype=np.float32)

    with closing(ParallelPasses(cores, lambda threads: None)) as passes:
        assert passes.score(by_number, pairs_of(tokens)).tolist() == list(range(len(tokens)))
