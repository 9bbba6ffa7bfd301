"""Reranking in the served product: two real workers, a model that slows down and breaks, a flag that flips.

The faults are in the passes of each worker's model: a `sitecustomize` on the service's path wraps
it, and a file says what is wrong with it at the moment.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from django.conf import settings
from prometheus_client.multiprocess import MultiProcessCollector

from tests.faults.service import Service
from tests.tiny_models import build_cross_encoder, wait_until

WORKERS = 2
REQUESTS_PER_SECOND = 20
SLOW_SECONDS = 3.0
RECOVERY_SECONDS = 2.0
FLIP_SECONDS = 5.0
RECOVERY_GUARD_SECONDS = 3 * RECOVERY_SECONDS
# On a machine that is busy with something else, what takes milliseconds may take this.
HANG_GUARD_SECONDS = 10.0
# Why a slow model is not asked or not waited for; a machine that is busy enough looks like one.
WHY_SLOW = {"timeout", "circuit_open", "deadline", "overloaded"}

NOTES = {
    "said": "what was said yesterday, and when it was said",
    "some": "yesterday it was good and said, what was good",
    "most": "good good good good good good good",
    "none": "nothing dull and plain",
}
# Without decay, which would move every score between two calls.
QUERY = {"query": "what was said yesterday", "top_k": 4, "decay_weight": 0}

FAULTY_FORWARD = '''
import importlib.machinery
import os
import sys
import time

_BACKENDS = {
    "reranker.backends.cross_encoder": "CrossEncoderBackend",
    "reranker.backends.built_cross_encoder": "BuiltCrossEncoderBackend",
}


def _gone_wrong(score):
    def run(self, pairs):
        try:
            with open(os.environ["TEST_FAULT_FILE"]) as file:
                fault = file.read()
        except FileNotFoundError:
            fault = ""
        if fault == "slow":
            time.sleep(0.4)
        elif fault == "out_of_memory":
            raise MemoryError("out of memory")
        elif fault == "device_error":
            raise RuntimeError("CUDA error: device-side assert triggered")
        return score(self, pairs)

    return run


class _Finder:
    """Lets the modules be found as ever, and changes each once it is imported: not before the fork, then."""

    def find_spec(self, name, path=None, target=None):
        if name not in _BACKENDS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_wrap(module):
            execute(module)
            backend = getattr(module, _BACKENDS[name])
            backend.score = _gone_wrong(backend.score)

        spec.loader.exec_module = execute_and_wrap
        return spec


sys.meta_path.insert(0, _Finder())
'''


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent and answered (`time.monotonic()`), and what came back."""

    sent_at: float
    done_at: float
    status: int
    answer: dict

    @property
    def took_ms(self) -> float:
        return (self.done_at - self.sent_at) * 1000

    @property
    def skipped(self) -> str | None:
        return self.answer["rerank"]["skipped"]


def _models(folder: Path) -> Path:
    """Built forms of this service's own: the embedding model's, and none yet of the cross-encoder."""
    return Path(
        shutil.copytree(
            settings.MEMORY_MODELS_DIR,
            folder / "models",
            ignore=lambda _, names: [name for name in names if name.endswith("-c1")],
        )
    )


class RerankingService(Service):
    """Two workers over a tiny cross-encoder whose forward pass does what the fault file says."""

    def __init__(self, folder: Path):
        super().__init__(folder / "var")
        shim = folder / "shim"
        shim.mkdir()
        (shim / "sitecustomize.py").write_text(FAULTY_FORWARD)
        self.fault_file = folder / "fault"
        self.environment |= {
            "WEB_CONCURRENCY": str(WORKERS),
            "MEMORY_MODELS_DIR": str(_models(folder)),
            "CROSS_ENCODER_MODEL": str(build_cross_encoder(folder / "model")),
            "RERANK_BACKEND": "auto",
            # One user asks for all; what each may do at once is not what is looked at here.
            "MEMORY_USER_CONCURRENCY": "400",
            "MEMORY_RESERVED_THREADS": "0",
            "MEMORY_QUERY_SECONDS": "30",
            "RERANK_ENABLED": "true",
            "RERANK_CIRCUIT_MS": "250",
            "PYTHONPATH": str(shim),
            "TEST_FAULT_FILE": str(self.fault_file),
        }

    def ask(self, token: str, **fields) -> Asked:
        sent_at = time.monotonic()
        status, answer = self.call("POST", "/api/v1/memory/query", token, {**QUERY, **fields})
        return Asked(sent_at, time.monotonic(), status, answer)

    @contextmanager
    def fault(self, name: str):
        written = self.fault_file.with_suffix(".new")
        written.write_text(name)
        written.rename(self.fault_file)
        try:
            yield
        finally:
            self.fault_file.unlink()

    def counts(self, sample: str, **labels: str) -> dict[int, float]:
        """A counter's value in each worker, by process id; only of workers that have it."""
        found = {}
        for path in (self.var / "metrics" / str(self.port)).glob("counter_*.db"):
            for metric in MultiProcessCollector.merge([str(path)]):
                for each in metric.samples:
                    if each.name == sample and each.labels.items() >= labels.items():
                        found[int(path.stem.rpartition("_")[2])] = each.value
        return found

    def set_flag(self, name: str, value: str) -> None:
        self.flags("set", name, value)

    def clear_flag(self, name: str) -> None:
        self.flags("clear", name)


@pytest.fixture(scope="module")
def service():
    with tempfile.TemporaryDirectory(prefix="r1-") as folder:
        service = RerankingService(Path(folder))
        service.start()
        try:
            yield service
        finally:
            service.stop()


@pytest.fixture(scope="module")
def token(service):
    token = service.token("alice")
    for doc_id, text in NOTES.items():
        body = {"doc_id": doc_id, "text": text, "created_at": "2026-01-01T00:00:00Z"}
        assert service.call("POST", "/api/v1/memory/index", token, body)[0] == 201
    return token


@pytest.fixture
def candidate_order(service, token) -> str:
    """The results of an answer without reranking, as text; and every worker is well."""
    wait_until_all_rerank(service, token)
    unranked, reranked = service.ask(token, rerank=False), service.ask(token)
    assert unranked.answer["results"][0]["doc_id"] == "said"
    assert [result["doc_id"] for result in reranked.answer["results"]][:2] == ["most", "some"]
    return json.dumps(unranked.answer["results"])


def run_of_answers(service, token, is_wanted: Callable[[Asked], bool], count: int = 20) -> bool:
    """True if `count` answers in a row, asked by four at a time, are as wanted; two workers share them."""
    with ThreadPoolExecutor(4) as callers:
        return all(callers.map(lambda _: is_wanted(service.ask(token)), range(count)))


def wait_until_all_rerank(service, token) -> None:
    wait_until(lambda: run_of_answers(service, token, lambda asked: asked.skipped is None), "all workers rerank")


@contextmanager
def load(service, token, rate: float):
    """A request every 1 / `rate` seconds, whether or not the last one is back; gives the growing list of `Asked`."""
    asked: list[Asked] = []
    stop = threading.Event()

    def one():
        asked.append(service.ask(token))

    def all_of_them():
        with ThreadPoolExecutor(64) as callers:
            started, sent, pending = time.monotonic(), 0, []
            while not stop.wait(max(0.0, started + sent / rate - time.monotonic())):
                pending.append(callers.submit(one))
                sent += 1
            for each in pending:
                each.result(60)

    with ThreadPoolExecutor(1) as generator:
        generating = generator.submit(all_of_them)
        try:
            yield asked
        finally:
            stop.set()
            generating.result(120)


def percentiles(asked: list[Asked]) -> np.ndarray:
    return np.percentile([each.took_ms for each in asked], [50, 95])


def test_each_worker_loads_the_model_once_and_none_before_the_fork(service, token):
    # Each says 0 for a moment before it counts.
    wait_until(lambda: sum(loads(service).values()) >= WORKERS, "both workers have loaded", 60)
    assert sorted(loads(service).values()) == [1.0] * WORKERS
    wait_until_all_rerank(service, token)
    assert sorted(loads(service).values()) == [1.0] * WORKERS
    log = service.log.read_text()
    assert log.count("the reranker's model could not be loaded") == 0
    assert "built in" in log and log.count("reranks by onnx on cpu") == WORKERS
    ready = service.call("GET", "/health/ready", token)[1]["components"]
    assert ready["embedder"]["runtime"] in ("onnx", "openvino") and ready["reranker"]["runtime"] == "onnx"


def loads(service) -> dict[int, float]:
    return service.counts("rerank_loads_total", backend="cross_encoder")


def test_a_model_that_slows_down_costs_the_order_and_nothing_else(service, token, candidate_order):
    """400 ms in the forward pass, for 3 s, at 20 requests a second."""
    with load(service, token, REQUESTS_PER_SECOND) as asked:
        time.sleep(2)
        with service.fault("slow"):
            slow_from = time.monotonic()
            time.sleep(SLOW_SECONDS)
            slow_until = time.monotonic()
        time.sleep(RECOVERY_SECONDS + 1.5)
        wait_until(lambda: is_well(asked[-20:], slow_until), "all is reranked again", RECOVERY_GUARD_SECONDS)
    asked.sort(key=lambda each: each.sent_at)

    before = [each for each in asked if each.done_at < slow_from]
    slow = [each for each in asked if each.sent_at > slow_from and each.done_at < slow_until]
    after = [each for each in asked if each.sent_at > slow_until]
    late = [each for each in after if each.sent_at > slow_until + RECOVERY_SECONDS]
    report(before, slow, slow_until, after, late)

    assert {each.status for each in asked} == {200}
    assert len(before) > 10 and len(slow) > 20 and len(late) > 10
    for each in asked:
        if each.skipped is None:
            assert each.answer["reranked"]
        else:
            assert each.skipped in WHY_SLOW and not each.answer["reranked"]
            assert json.dumps(each.answer["results"]) == candidate_order
    assert {each.skipped for each in slow} <= WHY_SLOW
    assert "circuit_open" in {each.skipped for each in slow}
    assert max(each.took_ms for each in asked) < HANG_GUARD_SECONDS * 1000
    wait_until_all_rerank(service, token)
    assert sorted(loads(service).values()) == [1.0] * WORKERS


def is_well(asked: list[Asked], since: float) -> bool:
    return all(each.sent_at > since and each.skipped is None for each in asked)


def report(before, slow, slow_until: float, after, late) -> None:
    """Times are printed, not asserted: they are the machine's as much as ours."""
    p50, p95 = percentiles(before)
    opened = next((n for n, each in enumerate(slow) if each.skipped == "circuit_open"), 0)
    slow_p50, slow_p95 = percentiles(slow) - (p50, p95)
    open_p50, open_p95 = percentiles(slow[opened:]) - (p50, p95)
    last_skipped = max((each.sent_at for each in after if each.skipped), default=slow_until)
    again = np.mean([each.skipped is None for each in late])
    sys.stdout.write(
        f"\nbefore: {len(before)} answers, p50 {p50:.0f} ms, p95 {p95:.0f} ms"
        f"\nslow: {len(slow)} answers, added p50 {slow_p50:.0f} ms, added p95 {slow_p95:.0f} ms"
        f"; from the first open circuit on {open_p50:.0f} and {open_p95:.0f} ms; {reasons(slow)}"
        f"\nafter: the last skipped answer was asked for {last_skipped - slow_until:.2f} s after; {reasons(after)}"
        f"; of {len(late)} answers later than {RECOVERY_SECONDS:g} s after, {again:.0%} reranked\n"
    )


def reasons(asked: list[Asked]) -> dict[str, int]:
    return dict(Counter(each.skipped or "reranked" for each in asked))


@pytest.mark.parametrize("fault", ["out_of_memory", "device_error"])
def test_a_forward_pass_that_fails_is_candidate_order_with_the_reason(service, token, candidate_order, fault):
    with service.fault(fault):
        asked = [service.ask(token) for _ in range(12)]
    assert {each.status for each in asked} == {200}
    assert fault in {each.skipped for each in asked} <= {fault, "circuit_open"}
    assert all(json.dumps(each.answer["results"]) == candidate_order for each in asked)
    wait_until_all_rerank(service, token)


def test_a_flag_takes_effect_on_all_workers_under_load_without_a_restart(service, token):
    wait_until_all_rerank(service, token)
    workers = set(loads(service))
    with load(service, token, REQUESTS_PER_SECOND) as asked:
        time.sleep(0.5)
        service.set_flag("RERANK_ENABLED", "false")
        flipped_at = time.monotonic()
        disabled = lambda: service.counts("rerank_skipped_total", reason="disabled")  # noqa: E731
        wait_until(lambda: set(disabled()) == workers, "every worker answers without reranking", FLIP_SECONDS)
        wait_until(
            lambda: all(each.skipped == "disabled" for each in asked[-20:]), "every answer is disabled", FLIP_SECONDS
        )
        off_after = max(each.sent_at for each in asked if each.skipped != "disabled") - flipped_at
        service.clear_flag("RERANK_ENABLED")
        wait_until(lambda: asked[-1].skipped is None, "reranking is back", HANG_GUARD_SECONDS)
    sys.stdout.write(f"\nthe last reranked answer was asked for {off_after:+.2f} s from when the command returned\n")
    assert {each.status for each in asked} == {200}
    assert {each.skipped for each in asked} <= {None, "disabled"} | WHY_SLOW
    wait_until_all_rerank(service, token)
    assert set(loads(service)) == workers
