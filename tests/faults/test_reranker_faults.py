"""A slow, broken, stuck or missing model costs a query its better order, and nothing else.

The models are real and really loaded; what goes wrong, goes wrong in their forward pass or on disk.
"""

import hashlib
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from reranker import REASONS, RerankConfig, Reranker, RerankSkipped
from reranker.metrics import breaker_state, failed
from reranker.model_files import files_digest, weights_digest
from tests.tiny_models import ForwardGate, build_cross_encoder, wait_until

PLENTY_MS = 30_000
BUDGET_MS = 250
# A caller must be back by then on a machine that is busy with something else.
HANG_GUARD_MS = 5_000
TEXTS = ["plain dull", "good good good", "good plain"]
SECRET = "dull42"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_cross_encoder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def tiny(folder):
    """Without parallel passes, so that each batch of the queue is one forward pass for the gate to see."""
    config = RerankConfig(
        model=str(folder), device="cpu", backend="cross_encoder", parallel_passes=1, stuck_after_seconds=0.5
    )  # fmt: skip
    tiny = Reranker(config)
    assert tiny.warm(60)
    yield tiny
    tiny.close()


@pytest.fixture
def gate(tiny, monkeypatch):
    gate = ForwardGate(tiny, monkeypatch)
    yield gate
    gate.before = lambda pairs: None
    gate.release()


def reranks(tiny, timeout_ms=PLENTY_MS):
    outcome = tiny.maybe_rerank("query", TEXTS, timeout_ms=timeout_ms)
    assert outcome.reranked == (outcome.skipped is None)
    if not outcome.reranked:
        assert [result.candidate for result in outcome.results] == TEXTS
    return outcome


def failing(error):
    def fail(pairs):
        raise error

    return fail


def breaker(tiny) -> str:
    return tiny.metrics()["breaker"]


# Faults of a forward pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError(f"CUDA out of memory at {SECRET}"), "out_of_memory"),
        (RuntimeError(f"CUDA error: device-side assert at {SECRET}"), "device_error"),
        (KeyError(SECRET), "error"),
    ],
)
def test_a_failing_batch_is_candidate_order_with_the_reason_and_then_an_open_breaker(tiny, gate, caplog, error, reason):
    gate.before = failing(error)
    assert [reranks(tiny).skipped for _ in range(3)] == [reason, reason, "circuit_open"]
    assert SECRET not in caplog.text and reason in caplog.text
    gate.before = lambda pairs: None
    wait_until(lambda: breaker(tiny) == "closed", "the breaker closes")
    assert reranks(tiny).results[0].candidate == "good good good"


def test_a_batch_that_does_not_fit_is_read_in_halves_once(tiny, gate):
    def no_room_for_three(pairs):
        if len(pairs) > 2:
            raise torch.OutOfMemoryError("out of memory")

    gate.before = no_room_for_three
    results = tiny.rerank("query", TEXTS, PLENTY_MS)
    assert results[0].candidate == "good good good"
    assert [len(batch) for batch in gate.batches] == [3, 1, 2]
    with pytest.raises(RerankSkipped) as skipped:
        tiny.rerank_or_raise("query", TEXTS * 3, PLENTY_MS)
    assert skipped.value.reason == "out_of_memory"
    assert [len(batch) for batch in gate.batches[3:]] == [9, 4]


def test_scores_that_are_no_numbers_are_a_device_error(tiny, monkeypatch):
    head = tiny.cross_encoder().model.classifier
    monkeypatch.setattr(head, "forward", lambda x: torch.full((len(x), 1), float("nan")))
    assert reranks(tiny).skipped == "device_error"


def test_a_text_the_tokenizer_refuses_harms_nobody_else(tiny, gate):
    for _ in range(5):
        assert tiny.maybe_rerank("query", ["\ud800"], timeout_ms=PLENTY_MS).skipped == "tokenizer_error"
    assert gate.batches == []
    assert reranks(tiny).reranked


def test_a_fault_of_the_queue_itself_fails_its_callers_and_the_thread_goes_on(tiny, monkeypatch):
    batcher = tiny._batcher
    take, faults = batcher._take, []

    def faulty_take():
        if batcher._queue and not faults:
            faults.append("once")
            raise LookupError("a fault of ours")
        return take()

    monkeypatch.setattr(batcher, "_take", faulty_take)
    assert reranks(tiny).skipped == "error"
    assert reranks(tiny).reranked


class Uncaught(BaseException):
    """What no `except Exception` sees."""


WHATEVER = [MemoryError, RecursionError, SystemExit, KeyboardInterrupt, Uncaught]


def failures() -> float:
    return sum(failed.labels(reason)._value.get() for reason in REASONS)


@pytest.mark.parametrize("error", WHATEVER)
def test_whatever_the_model_raises_fails_its_batch_and_the_thread_goes_on(tiny, gate, caplog, error):
    before, owner = failures(), tiny._batcher._thread
    gate.before = failing(error(SECRET))
    assert reranks(tiny).skipped in ("error", "out_of_memory", "device_error")
    gate.before = lambda pairs: None
    assert reranks(tiny).reranked and owner.is_alive()
    assert failures() - before == 1
    assert error.__name__ in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize("error", WHATEVER)
def test_whatever_is_raised_while_a_batch_is_chosen_fails_its_callers_and_the_thread_goes_on(
    tiny, monkeypatch, caplog, error
):
    batcher = tiny._batcher
    take, before, faults = batcher._take, failures(), []

    def faulty_take():
        if batcher._queue and not faults:
            faults.append("once")
            raise error(SECRET)
        return take()

    monkeypatch.setattr(batcher, "_take", faulty_take)
    assert reranks(tiny).skipped == "error"
    assert reranks(tiny).reranked and batcher._thread.is_alive()
    assert failures() - before == 1
    assert error.__name__ in caplog.text and SECRET not in caplog.text


@pytest.mark.parametrize("error", [SystemExit, Uncaught])
def test_whatever_a_probe_raises_is_a_bad_probe_and_a_later_one_closes_the_breaker(tiny, gate, error):
    gate.before = failing(error(SECRET))
    reranks(tiny), reranks(tiny)
    wait_until(lambda: len(gate.batches) >= 3, "the first probe")
    gate.before = lambda pairs: None
    wait_until(lambda: breaker(tiny) == "closed", "the breaker closes")
    assert reranks(tiny).reranked


def test_a_load_that_calls_for_an_exit_is_a_failed_load_and_is_tried_again(copied, monkeypatch):
    from sentence_transformers import CrossEncoder

    real = CrossEncoder.__init__

    def exits(self, *args, **kwargs):
        monkeypatch.setattr(CrossEncoder, "__init__", real)
        raise SystemExit(SECRET)

    monkeypatch.setattr(CrossEncoder, "__init__", exits)
    config = RerankConfig(model=str(copied), device="cpu", backend="cross_encoder", reload_after_seconds=0.05)
    healing = Reranker(config)
    try:
        assert not healing.warm(60)
        wait_until(lambda: healing.metrics()["state"] == "ready", "a later load")
        assert reranks(healing).reranked
    finally:
        healing.close()


# Deadlines and a stuck device


def test_callers_come_back_though_the_model_never_does(tiny, gate):
    gate.hold()
    with ThreadPoolExecutor(8) as callers:
        outcomes = list(callers.map(lambda _: reranks(tiny, BUDGET_MS), range(8)))
    assert {outcome.skipped for outcome in outcomes} <= {"timeout", "circuit_open"}
    assert all(outcome.took_ms < HANG_GUARD_MS for outcome in outcomes)
    assert breaker(tiny) == "open"
    assert reranks(tiny, BUDGET_MS).skipped == "circuit_open"
    assert len(gate.batches) == 1


def test_a_stuck_device_is_reported_once_and_opens_the_breaker(tiny, gate, caplog):
    gate.hold()
    assert reranks(tiny, BUDGET_MS).skipped == "timeout"
    assert breaker(tiny) == "closed"
    wait_until(lambda: tiny.metrics()["stuck"], "the watchdog")
    assert breaker(tiny) == "open"
    assert tiny.metrics()["stuck"] and caplog.text.count("may be stuck") == 1
    assert reranks(tiny, BUDGET_MS).skipped == "circuit_open"
    gate.release()
    wait_until(lambda: breaker(tiny) == "closed", "the breaker closes")
    assert not tiny.metrics()["stuck"] and reranks(tiny).reranked


def test_what_expired_while_waiting_never_reaches_the_model(tiny, gate):
    gate.hold()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(reranks, tiny)
        gate.wait_entered()
        assert tiny.maybe_rerank("query", ["yesterday"], timeout_ms=50).skipped == "timeout"
        assert tiny.metrics()["queued_tokens"] == 0
        gate.release()
        assert first.result(30).reranked
    assert reranks(tiny).reranked
    assert "yesterday" not in gate.seen


def test_a_caller_that_leaves_takes_its_passages_along(tiny, gate, monkeypatch):
    """As when its worker thread is told to stop: whatever ends the wait, the work is dropped."""

    class Stopped(BaseException):
        pass

    gate.hold()
    with ThreadPoolExecutor(1) as callers:
        first = callers.submit(reranks, tiny)
        gate.wait_entered()
        wait = threading.Event.wait
        here = threading.current_thread()

        def stopped_here(event, timeout=None):
            if threading.current_thread() is here:
                raise Stopped
            return wait(event, timeout)

        monkeypatch.setattr(threading.Event, "wait", stopped_here)
        with pytest.raises(Stopped):
            tiny.rerank("query", ["yesterday"], PLENTY_MS)
        monkeypatch.setattr(threading.Event, "wait", wait)
        gate.release()
        assert first.result(30).reranked
    assert reranks(tiny).reranked
    assert "yesterday" not in gate.seen


def test_a_job_that_cannot_end_in_time_is_refused_before_it_is_tried(tiny, gate):
    pass_time = tiny._batcher.runner._pass_time
    pass_time._factor = 50.0
    outcome = tiny.maybe_rerank("query", ["plain " * 400] * 100, timeout_ms=BUDGET_MS)
    assert outcome.skipped == "deadline" and gate.batches == []
    # It would be refused for ever if nobody looked again.
    wait_until(lambda: pass_time._factor < 10, "the model is measured again")
    assert {len(batch) for batch in gate.batches} == {8} and breaker(tiny) == "closed"


def test_a_full_queue_refuses_at_once(folder, monkeypatch):
    config = RerankConfig(model=str(folder), device="cpu", backend="cross_encoder", max_queued_tokens=64)
    small = Reranker(config)
    assert small.warm(60)
    gate = ForwardGate(small, monkeypatch)
    gate.hold()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(small.maybe_rerank, "query", ["plain"], timeout_ms=PLENTY_MS)
        gate.wait_entered()
        second = callers.submit(small.maybe_rerank, "query", ["plain dull " * 10] * 2, timeout_ms=PLENTY_MS)
        wait_until(lambda: small.metrics()["queued_pairs"] == 2, "the second waits")
        assert small.maybe_rerank("query", ["plain dull " * 10], timeout_ms=PLENTY_MS).skipped == "overloaded"
        gate.release()
        assert first.result(30).reranked and second.result(30).reranked
    small.close()


# Slowness and recovery


def test_after_a_slowdown_every_call_is_reranked_again_within_two_seconds(tiny, gate):
    """Twenty calls a second; for three seconds each forward pass takes 400 ms."""
    started = time.monotonic()
    slow_from, slow_until = started + 0.5, started + 3.5

    def slowed(pairs):
        if slow_from <= time.monotonic() < slow_until:
            time.sleep(0.4)

    gate.before = slowed
    calls = []
    with ThreadPoolExecutor(16) as callers:
        for n in range(int(6.5 * 20)):
            time.sleep(max(0.0, started + n / 20 - time.monotonic()))
            calls.append((time.monotonic(), callers.submit(reranks, tiny, BUDGET_MS)))
        calls = [(at, call.result(30)) for at, call in calls]
    while_slow = [outcome for at, outcome in calls if slow_from + 0.1 < at < slow_until]
    assert while_slow and not any(outcome.reranked for outcome in while_slow)
    assert sum(outcome.skipped == "circuit_open" for outcome in while_slow) > len(while_slow) / 2
    after = [outcome for at, outcome in calls if at >= slow_until + 2]
    # A busy machine may take a moment from any one call; the breaker and the backlog may not.
    assert len(after) >= 15 and sum(outcome.reranked for outcome in after) >= len(after) - 1
    assert breaker(tiny) == "closed" and tiny.metrics()["queued_pairs"] == 0


def test_half_open_is_one_synthetic_probe_and_no_request_of_a_user(tiny, gate):
    gate.before = failing(RuntimeError("device"))
    reranks(tiny), reranks(tiny)
    assert breaker(tiny) == "open"
    calls_before = len(gate.batches)
    gate.before = lambda pairs: None
    gate.hold()
    wait_until(lambda: breaker(tiny) == "half_open", "a probe starts")
    wait_until(lambda: len(gate.batches) > calls_before, "the probe reaches the model")
    with ThreadPoolExecutor(8) as callers:
        outcomes = list(callers.map(lambda _: reranks(tiny, BUDGET_MS), range(32)))
    assert {outcome.skipped for outcome in outcomes} == {"circuit_open"}
    assert len(gate.batches) == calls_before + 1
    assert not any("good good good" in pair for pair in gate.batches[-1])
    assert breaker_state.labels("cross_encoder")._value.get() == 1
    gate.release()
    wait_until(lambda: breaker(tiny) == "closed", "the probe ends")
    assert len(gate.batches) == calls_before + 1
    assert breaker_state.labels("cross_encoder")._value.get() == 0


def test_a_bad_probe_keeps_it_open(tiny, gate):
    gate.before = failing(RuntimeError("device"))
    reranks(tiny), reranks(tiny)
    wait_until(lambda: len(gate.batches) >= 3, "the first probe")
    assert breaker(tiny) in ("open", "half_open")
    assert reranks(tiny).skipped == "circuit_open"


# Faults of a load


def skipped_by(config: RerankConfig) -> tuple[str, str]:
    broken = Reranker(config)
    try:
        assert not broken.warm(60)
        outcome = broken.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS)
        assert [result.candidate for result in outcome.results] == TEXTS
        found = broken.metrics()
        assert (found["state"], found["reason"], found["loads"]) == ("failed", outcome.skipped, 0)
        return outcome.skipped, found["detail"]
    finally:
        broken.close()


def test_missing_weights_are_a_state_with_a_reason(copied, tmp_path):
    (copied / "model.safetensors").unlink()
    assert skipped_by(RerankConfig(model=str(copied))) == ("no_backend", "the model has no safetensors weights")
    assert skipped_by(RerankConfig(model=str(tmp_path / "none")))[0] == "no_backend"


def test_pickled_weights_are_not_read(copied):
    weights = {"bert.embeddings.word_embeddings.weight": torch.zeros(1)}
    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")
    assert skipped_by(RerankConfig(model=str(copied)))[0] == "no_backend"


def test_pickled_weights_in_a_folder_of_their_own_are_not_read_but_another_runtimes_are_let_lie(copied):
    digest = weights_digest(copied)
    (copied / "openvino").mkdir()
    (copied / "openvino" / "openvino_model.bin").write_bytes(b"not ours")
    assert weights_digest(copied) == digest
    (copied / "2_Dense").mkdir()
    (copied / "2_Dense" / "pytorch_model.bin").write_bytes(b"a pickle")
    reason, detail = skipped_by(RerankConfig(model=str(copied)))
    assert reason == "no_backend" and "not safetensors" in detail


def test_the_digest_of_several_weight_files_is_that_of_their_sha256sums(copied):
    (copied / "a.safetensors").write_bytes(b"one")
    names = ("a.safetensors", "model.safetensors")
    lines = [f"{hashlib.sha256((copied / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    assert weights_digest(copied) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_weights_of_another_shape_or_cut_off_are_not_used(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert skipped_by(RerankConfig(model=str(copied)))[0] in ("error", "no_backend")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "vocab.txt", "config.json"])
def test_one_changed_bit_of_a_model_with_known_digests_leaves_candidate_order(copied, name):
    expected = {"expected_sha256": weights_digest(copied), "expected_files_sha256": files_digest(copied)}
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    found = weights_digest(copied) if name == "model.safetensors" else files_digest(copied)
    reason, detail = skipped_by(RerankConfig(model=str(copied), **expected))
    assert reason == "no_backend" and "not the expected ones" in detail and found in detail


def test_a_model_with_its_known_digests_is_loaded(copied):
    expected = {"expected_sha256": weights_digest(copied).upper(), "expected_files_sha256": files_digest(copied)}
    right = Reranker(RerankConfig(model=str(copied), device="cpu", backend="cross_encoder", **expected))
    assert right.warm(60)
    right.close()


def test_a_broken_tokenizer_is_a_state_with_a_reason(copied):
    for name in ("tokenizer.json", "vocab.txt"):
        (copied / name).write_text("{")
    assert skipped_by(RerankConfig(model=str(copied)))[0] == "tokenizer_error"


def test_a_model_with_several_outputs_cannot_rank(tmp_path):
    folder = build_cross_encoder(tmp_path / "labels", labels=3)
    reason, detail = skipped_by(RerankConfig(model=str(folder)))
    assert reason == "no_backend" and "3 outputs" in detail


def test_no_memory_for_the_weights_is_a_state_with_a_reason(folder, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    assert skipped_by(RerankConfig(model=str(folder)))[0] == "out_of_memory"


def test_a_model_that_is_on_no_disk_is_not_asked_of_the_hub_when_offline(tmp_path, monkeypatch):
    import socket

    from huggingface_hub import constants

    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: asked.append(args))
    reason, detail = skipped_by(RerankConfig(cache_folder=str(tmp_path)))
    assert reason == "no_backend" and "HF_HUB_OFFLINE" in detail and not asked


def test_a_model_in_the_hub_cache_is_found_there_by_its_pinned_revision(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    config = RerankConfig(cache_folder=str(tmp_path), device="cpu", backend="cross_encoder")
    repository = tmp_path / "models--cross-encoder--ms-marco-TinyBERT-L-2-v2"
    shutil.copytree(folder, repository / "snapshots" / config.pinned_revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = Reranker(config)
    try:
        assert cached.warm(60) and reranks(cached).reranked
    finally:
        cached.close()


def test_while_it_loads_calls_are_skipped_and_not_kept_waiting(copied, monkeypatch):
    from sentence_transformers import CrossEncoder

    may_load, real = threading.Event(), CrossEncoder.__init__

    def held(self, *args, **kwargs):
        assert may_load.wait(60)
        real(self, *args, **kwargs)

    monkeypatch.setattr(CrossEncoder, "__init__", held)
    loading = Reranker(RerankConfig(model=str(copied), device="cpu", backend="cross_encoder"))
    try:
        assert reranks(loading).skipped == "loading"
        assert loading.metrics()["state"] in ("cold", "loading") and not loading.warm(0.01)
        may_load.set()
        assert loading.warm(60) and reranks(loading).reranked
    finally:
        loading.close()


def test_a_failed_load_is_tried_again_after_a_while(copied):
    config_file = copied / "config.json"
    good = config_file.read_text()
    config_file.write_text(json.dumps({"model_type": "no such model"}))
    healing = Reranker(
        RerankConfig(model=str(copied), device="cpu", backend="cross_encoder", reload_after_seconds=0.05)
    )
    try:
        assert not healing.warm(60)
        config_file.write_text(good)
        wait_until(lambda: healing.metrics()["state"] == "ready", "a later load")
        assert reranks(healing).reranked and healing.metrics()["loads"] == 1
    finally:
        healing.close()
