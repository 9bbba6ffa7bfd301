"""What a machine with a GPU must do before it serves: driver, memory, a real load on cuda, speed, half precision.

Times are printed, not held: `rerank_bench --p95-limit-ms` holds them (deploy/runbooks/gpu.md).
"""

from __future__ import annotations

import sys
import time
from contextlib import closing

import numpy as np
import pytest

from memory.embedding.embedder import Embedder
from memory.embedding.model import EmbeddingModel
from reranker import RerankConfig, Reranker
from reranker.bench import BenchPlan, run_bench
from reranker.verify import SCORE_TOLERANCE, fixed_scores, gpu_memory, nvidia_smi

CANDIDATES, TOKENS = 24, 256
# What is still free on the card once both models are on it.
FREE_BYTES_MIN = 1 << 30
PASSAGES = [
    f"{n}: the pump in the cellar was serviced in March, and its filter is changed twice a year. " * (1 + n % 8)
    for n in range(256)
]


def say(line: str) -> None:
    """The figures are what the run is for; `make gpu-test` has pytest let them through."""
    sys.stdout.write(f"\n{line}\n")


@pytest.fixture(scope="module")
def on_gpu(cross_encoder):
    reranker = Reranker(RerankConfig(backend="cross_encoder", model=str(cross_encoder)))
    assert reranker.warm(120), reranker.metrics()
    yield reranker
    reranker.close()


@pytest.fixture(scope="module")
def embedder():
    with closing(Embedder()) as embedder:
        embedder.load()
        yield embedder


def test_nvidia_smi_shows_the_card_and_its_driver():
    rows = nvidia_smi()
    assert rows, "nvidia-smi is not there, or fails: the driver is not installed"
    for row in rows:
        say("nvidia-smi: " + ", ".join(f"{name} {value}" for name, value in row.items()))
        assert row["name"] and row["driver_version"] and "MiB" in row["memory.total"]


def test_the_cross_encoder_is_loaded_on_the_gpu_by_torch(on_gpu):
    found = on_gpu.metrics()
    say(f"cross-encoder: {found['device']}, {found['dtype']}, loaded in {found['load_seconds']:.1f} s")
    assert (found["runtime"], found["device"]) == ("torch", "cuda:0")


def test_there_is_memory_left_once_both_models_are_loaded(on_gpu, embedder):
    embedder.embed_passages(PASSAGES)
    memory = gpu_memory(on_gpu.metrics()["device"])
    total, used = memory["memory_total_bytes"], memory["memory_used_bytes"]
    say(f"{memory['name']}: {used / 2**20:.0f} of {total / 2**20:.0f} MiB used, "
        f"{memory['memory_peak_bytes'] / 2**20:.0f} MiB at most by this process's tensors")  # fmt: skip
    assert memory["memory_peak_bytes"] > 0
    assert total - used > FREE_BYTES_MIN


def test_scores_are_those_of_float32_on_a_cpu(on_gpu, cross_encoder):
    on_cpu = Reranker(RerankConfig(model=str(cross_encoder), device="cpu", dtype="float32"))
    try:
        assert on_cpu.warm(120)
        difference = np.abs(np.array(fixed_scores(on_gpu)) - np.array(fixed_scores(on_cpu))).max()
    finally:
        on_cpu.close()
    say(f"scores differ from a CPU's by {difference:.4f} at most")
    assert difference <= SCORE_TOLERANCE


def test_24_pairs_are_reranked_and_their_p95_is_printed(cross_encoder):
    plan = BenchPlan(queries=100, candidates=CANDIDATES, token_counts=(TOKENS,), concurrencies=(1, 16))
    one, many = run_bench([RerankConfig(backend="cross_encoder", model=str(cross_encoder))], plan)
    for row in (one, many):
        say(f"rerank {CANDIDATES} x {TOKENS}, {row['concurrency']} callers: p50 {row['p50_ms']} ms, "
            f"p95 {row['p95_ms']} ms, p99 {row['p99_ms']} ms, {row['per_second']}/s")  # fmt: skip
    assert (one["runtime"], one["candidates"], one["tokens"]) == ("torch", CANDIDATES, TOKENS)


def test_passages_are_embedded_in_half_precision_and_give_what_float32_gives(embedder):
    model = embedder.load()
    assert isinstance(model, EmbeddingModel) and model.device.startswith("cuda")
    assert {str(weight.dtype) for weight in model.sentence_transformer.parameters()} == {"torch.float16"}
    embedder.embed_passages(PASSAGES)
    started, before = time.perf_counter(), embedder.batches_run
    rows = embedder.embed_passages(PASSAGES)
    seconds, batches = time.perf_counter() - started, embedder.batches_run - before
    say(f"{len(PASSAGES)} passages embedded in {seconds * 1000:.0f} ms, {batches} batches")
    assert batches < len(PASSAGES) / 8
    with closing(Embedder(device="cpu", backend="torch")) as on_cpu:
        cosines = (rows[:32] * on_cpu.embed_passages(PASSAGES[:32])).sum(axis=1)
    say(f"cosine to float32 on a CPU: {cosines.min():.5f} at least")
    assert cosines.min() > 0.999
