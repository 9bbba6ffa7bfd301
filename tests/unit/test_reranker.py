"""Reranking: exact order, batches shared between callers, and a facade that never fails."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reranker
from reranker import BACKEND_CHOICES, BACKENDS, RerankConfig, Reranker, RerankSkipped
from reranker.backends import Pair
from reranker.bench import WAYS, BenchPlan, run_bench
from reranker.fair_queue import FairQueue
from reranker.faults import LoadFailure
from reranker.jobs import Job
from reranker.loader import Load
from reranker.pass_time import PassTime
from reranker.scores import best_first, sigmoid
from reranker.verify import as_reference, read_reference, verify, write_reference
from tests import tiny_reranker
from tests.tiny_models import ForwardGate, build_cross_encoder, wait_until
from tests.tiny_reranker import PLENTY_MS, TEXTS

folder, tiny, gate = tiny_reranker.FIXTURES
BY_SHARE_OF_GOOD = [3, 1, 2]


@dataclass
class Memory:
    text: str


# The facade


def test_importing_the_package_loads_no_model_library_and_starts_no_thread():
    code = (
        "import sys, threading, reranker, reranker.bench, reranker.verify\n"
        "reranker.configure(reranker.RerankConfig(backend='none')); reranker.get_rerank_metrics()\n"
        "unwanted = {'torch', 'transformers', 'sentence_transformers', 'tokenizers', 'django', 'memory'}\n"
        "assert not unwanted & set(sys.modules)\n"
        "assert threading.active_count() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_passages_come_in_the_order_the_model_gives_them(folder, dtype):
    tiny = Reranker(RerankConfig(model=str(folder), dtype=dtype, device="cpu"))
    try:
        assert tiny.warm(60)
        results = tiny.rerank("query", TEXTS, PLENTY_MS)
    finally:
        tiny.close()
    assert [TEXTS.index(result.candidate) for result in results[:3]] == BY_SHARE_OF_GOOD
    assert [result.rank for result in results] == [1, 2, 3, 4, 5]
    scores = [result.score for result in results]
    assert scores == sorted(scores, reverse=True) and 0 < scores[-1] < scores[0] < 1


def test_scores_are_the_sigmoids_of_what_sentence_transformers_predicts(folder, tiny):
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    tiny.configure(RerankConfig(model=str(folder), dtype="float32", device="cpu"))
    plain = CrossEncoder(str(folder), device="cpu")
    expected = plain.predict([("query", text) for text in TEXTS], activation_fn=Identity(), show_progress_bar=False)
    assert tiny.warm(60)
    score_of = {result.candidate: result.score for result in tiny.rerank("query", TEXTS, PLENTY_MS)}
    np.testing.assert_allclose([score_of[text] for text in TEXTS], sigmoid(expected), atol=1e-5)


def test_the_shortened_last_layer_reads_one_token_and_scores_the_same(tmp_path):
    from sentence_transformers import CrossEncoder

    folder = build_cross_encoder(tmp_path / "random", hand_set=False)
    texts = [f"plain {'good dull ' * n} when" for n in (0, 1, 5, 40, 200)]
    plain = CrossEncoder(str(folder), device="cpu")
    expected = plain.predict([("what was", text) for text in texts], show_progress_bar=False)
    assert np.ptp(expected) > 0.01
    short = Reranker(RerankConfig(model=str(folder), dtype="float32", device="cpu"))
    try:
        lengths = []
        last = short.cross_encoder().model.bert.encoder.layer[-1].intermediate
        last.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
        score_of = {result.candidate: result.score for result in short.rerank("what was", texts, PLENTY_MS)}
    finally:
        short.close()
    np.testing.assert_allclose([score_of[text] for text in texts], expected, atol=1e-5)
    assert set(lengths) == {1}


def test_equal_scores_keep_the_candidates_order(tiny):
    candidates = [Memory("plain dull") for _ in range(40)]
    results = tiny.rerank("query", candidates, PLENTY_MS)
    assert [id(result.candidate) for result in results] == [id(candidate) for candidate in candidates]


def test_a_candidate_is_a_text_or_has_one_and_comes_back_as_it_was(tiny):
    memories = [Memory(text) for text in TEXTS]
    by_object = tiny.rerank("query", memories, PLENTY_MS)
    by_text = tiny.rerank("query", TEXTS, PLENTY_MS)
    assert [result.candidate.text for result in by_object] == [result.candidate for result in by_text]
    assert by_object[0].candidate is memories[3]
    with pytest.raises(AttributeError):
        tiny.maybe_rerank("query", [object()])


def test_special_tokens_in_a_text_are_only_its_characters(tiny, gate):
    tiny.rerank("query", ["plain [SEP] [CLS] good"], PLENTY_MS)
    (pair,) = gate.batches[-1]
    assert pair.count("[SEP]") == 2 and pair.count("[CLS]") == 1


def test_what_may_be_asked_for_is_what_there_is():
    assert {*BACKEND_CHOICES} == {"auto", *BACKENDS, "none"}


def test_nothing_to_rerank_is_no_failure_and_no_rerank(tiny, folder):
    for asked in (tiny, Reranker(RerankConfig(model=str(folder / "nothing")))):
        before = asked.metrics()
        outcome = asked.maybe_rerank("query", [])
        assert (outcome.results, outcome.reranked, outcome.backend, outcome.skipped) == ([], False, "none", "empty")
        assert asked.rerank("query", []) == []
        assert asked.metrics() == before
    with pytest.raises(ValueError):
        tiny.rerank("query", [], backend="another")


def test_skipped_answers_are_the_candidates_in_order_with_falling_scores(tiny):
    for outcome, reason in (
        (tiny.maybe_rerank("query", TEXTS, enabled=False), "disabled"),
        (tiny.maybe_rerank("query", TEXTS, backend="none"), "no_backend"),
        (tiny.maybe_rerank("query", TEXTS, timeout_ms=0), "deadline"),
    ):
        assert (outcome.reranked, outcome.skipped) == (False, reason)
        assert [result.candidate for result in outcome.results] == TEXTS
        assert [result.score for result in outcome.results] == [1 - i / 5 for i in range(5)]
        assert [result.rank for result in outcome.results] == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError):
        tiny.maybe_rerank("query", TEXTS, backend="something")


def test_what_maybe_rerank_gives_is_a_sequence_of_the_candidates_in_order(tiny):
    outcome = tiny.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS)
    assert outcome.reranked
    assert list(outcome) == [result.candidate for result in outcome.results] != TEXTS
    assert sorted(outcome) == sorted(TEXTS)
    assert (len(outcome), outcome[0], outcome[-1], outcome[:2]) == (
        5,
        outcome.results[0].candidate,
        outcome.results[4].candidate,
        list(outcome)[:2],
    )
    assert list(tiny.maybe_rerank("query", TEXTS, enabled=False)) == TEXTS
    assert list(tiny.maybe_rerank("query", [])) == []


def test_past_its_budget_rerank_answers_in_candidate_order_unless_who_asks_must_know(tiny):
    past = tiny.rerank("query", TEXTS, 0)
    assert [(result.candidate, result.score) for result in past] == [(TEXTS[i], 1 - i / 5) for i in range(5)]
    with pytest.raises(RerankSkipped) as refused:
        tiny.rerank_or_raise("query", TEXTS, 0)
    assert refused.value.reason == "deadline"
    assert tiny.rerank_or_raise("query", []) == []


@pytest.mark.parametrize("said", ["false", "0", "No", " off "])
def test_untold_it_asks_the_environment_whether_to_rerank(tiny, monkeypatch, said):
    monkeypatch.delenv("RERANK_ENABLED", raising=False)
    assert tiny.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS).reranked
    monkeypatch.setenv("RERANK_ENABLED", said)
    assert tiny.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS).skipped == "disabled"
    assert tiny.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS, enabled=True).reranked


def test_a_switch_of_the_settings_wins_over_the_environment_until_it_fails(folder, monkeypatch):
    def broken() -> bool:
        raise ConnectionError

    monkeypatch.setenv("RERANK_ENABLED", "false")
    switched = Reranker(RerankConfig(model=str(folder), device="cpu", is_enabled=lambda: True))
    try:
        assert switched.warm(60)
        assert switched.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS).reranked
        switched.configure(replace(switched.config, is_enabled=broken))
        assert switched.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS).skipped == "disabled"
        assert switched.metrics()["loads"] == 1
    finally:
        switched.close()


def test_the_async_twins_answer_alike_and_let_the_loop_go_on(folder, monkeypatch):
    reranker.configure(RerankConfig(model=str(folder), device="cpu", parallel_passes=1))

    async def ask():
        gate = ForwardGate(reranker._process_reranker, monkeypatch)
        gate.hold()
        waiting = asyncio.create_task(reranker.arerank("query", TEXTS, PLENTY_MS))
        while not gate.batches:  # turns while the model is held: the loop is free
            await asyncio.sleep(0.001)
        assert not waiting.done()
        gate.release()
        reranked = await waiting
        past = await reranker.arerank("query", TEXTS, 0)
        off = await reranker.amaybe_rerank("query", TEXTS, enabled=False)
        return reranked, past, off, await reranker.amaybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS)

    try:
        assert reranker.warm(60)
        reranked, past, off, maybe = asyncio.run(ask())
        assert reranked == reranker.rerank("query", TEXTS, PLENTY_MS) == maybe.results
        assert reranked[0].candidate == TEXTS[3]
        assert [result.candidate for result in past] == TEXTS and off.skipped == "disabled"
    finally:
        reranker.close()
        reranker.configure(RerankConfig())


def test_metrics_count_calls_and_reasons_and_say_what_runs_where(tiny):
    assert tiny.metrics()["rerank_latency_ms"] == {"p50": None, "p95": None, "max": None}
    tiny.rerank("query", TEXTS, PLENTY_MS)
    tiny.maybe_rerank("query", TEXTS, enabled=False)
    tiny.maybe_rerank("query", TEXTS, backend="none")
    found = tiny.metrics()
    assert (found["rerank_total"], found["rerank_skipped_total"]) == (1, 2)
    assert found["rerank_skipped"] == {"disabled": 1, "no_backend": 1}
    assert 0 < found["rerank_latency_ms"]["p50"] <= found["rerank_latency_ms"]["max"]
    assert (found["backend"], found["device"], found["state"]) == ("cross_encoder", "cpu", "ready")
    assert (found["breaker"], found["queued_tokens"], found["loads"]) == ("closed", 0, 1)
    assert json.dumps(found)


def test_the_process_has_one_reranker_and_it_loads_once_for_all_threads(folder):
    reranker.configure(RerankConfig(model=str(folder), device="cpu"))
    try:
        with ThreadPoolExecutor(8) as callers:
            models = list(callers.map(lambda _: reranker.get_cross_encoder(), range(8)))
        assert len({id(model) for model in models}) == 1
        assert reranker.get_rerank_metrics()["loads"] == 1
        assert reranker.rerank("query", TEXTS, PLENTY_MS)[0].candidate == TEXTS[3]
    finally:
        reranker.close()
        reranker.configure(RerankConfig())


def test_new_settings_load_again_only_what_they_change(folder, tiny):
    model = tiny.cross_encoder()
    tiny.configure(replace(tiny.config, backend="cross_encoder", is_enabled=lambda: True))
    assert tiny.cross_encoder() is model
    tiny.configure(RerankConfig(model=str(folder), device="cpu", parallel_passes=1, max_tokens=64))
    assert tiny.cross_encoder() is not model


# Batches


def test_concurrent_callers_share_batches_in_one_thread(tiny, gate):
    gate.hold()
    with ThreadPoolExecutor(9) as callers:
        first = callers.submit(tiny.rerank, "query", ["plain"], PLENTY_MS)
        gate.wait_entered()
        texts = [[f"plain {'dull ' * n}" for n in range(4)] for _ in range(8)]
        others = [callers.submit(tiny.rerank, "query", some, PLENTY_MS) for some in texts]
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 32, "all callers wait")
        gate.release()
        assert len(first.result(30)) == 1
        assert all(len(other.result(30)) == 4 for other in others)
    assert [len(batch) for batch in gate.batches] == [1, 32]
    assert gate.threads == {"reranker-cross_encoder"}


def test_each_caller_gets_the_scores_of_its_own_passages(tiny, gate):
    alone = {text: tiny.rerank("query", [text], PLENTY_MS)[0].score for text in TEXTS}
    gate.hold()
    with ThreadPoolExecutor(16) as callers:
        jobs = [callers.submit(tiny.rerank, "query", TEXTS[n % 3 :], PLENTY_MS) for n in range(16)]
        wait_until(lambda: tiny.metrics()["queued_pairs"] > 30, "callers wait")
        gate.release()
        for job in jobs:
            for result in job.result(30):
                assert result.score == pytest.approx(alone[result.candidate], abs=0.02)


def test_long_and_short_passages_of_different_callers_meet_their_like(tiny, gate):
    long, short = "plain " * 200, "plain"
    gate.hold()
    with ThreadPoolExecutor(5) as callers:
        jobs = [callers.submit(tiny.rerank, "query", ["dull"], PLENTY_MS)]
        gate.wait_entered()
        jobs += [callers.submit(tiny.rerank, "query", [long, short] * 4, PLENTY_MS) for _ in range(4)]
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 32, "all callers wait")
        gate.release()
        for job in jobs:
            job.result(30)
    lengths = [sorted({len(pair.split()) > 100 for pair in batch}) for batch in gate.batches[1:]]
    assert lengths == [[True], [False]]


def job_of(user: str, *tokens: int) -> Job:
    return Job([Pair(count, None) for count in tokens], 0.0, user)


users_jobs = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 600), min_size=1, max_size=12)), min_size=1, max_size=8
)


@given(users_jobs)
def test_every_pair_is_read_once_in_passes_that_fit_and_are_less_than_half_padding(asked):
    fair: FairQueue[Job] = FairQueue(10**9, quantum_tokens=None, rotates=False)
    jobs = [job_of(user, *counts) for user, counts in asked]
    for job in jobs:
        fair.add(job)
    read = []
    while batch := fair.take(1024, 8):
        lengths = [job.tokens[i] for job, i in batch]
        assert len(batch) == 1 or (len(batch) <= 8 and len(batch) * max(lengths) <= 1024)
        assert 2 * min(lengths) >= max(lengths)
        read += [(jobs.index(job), i) for job, i in batch]
    assert sorted(read) == [(j, i) for j, (_, counts) in enumerate(asked) for i in range(len(counts))]


def test_who_asks_once_is_answered_before_the_backlog_of_who_asks_much(tiny, gate):
    passages = [f"plain {'dull ' * 300}" for _ in range(16)]
    finished: list[str] = []

    def ask(owner: str) -> None:
        assert tiny.maybe_rerank("query", passages, timeout_ms=PLENTY_MS, owner=owner).reranked
        finished.append(owner)

    gate.hold()
    with ThreadPoolExecutor(8) as callers:
        first = callers.submit(tiny.rerank, "query", ["plain"], PLENTY_MS, owner="first")
        gate.wait_entered()
        much = [callers.submit(ask, "much") for _ in range(5)]
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 80, "the backlog waits")
        once = callers.submit(ask, "once")
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 96, "the other one waits, too")
        gate.release()
        for each in (first, once, *much):
            each.result(60)
    # Two passes answer it, and as much of the other one.
    assert finished.index("once") < 4


def test_one_owner_has_a_quarter_of_the_queue_and_nobody_else_is_refused_for_it(folder, monkeypatch):
    small = Reranker(RerankConfig(model=str(folder), device="cpu", parallel_passes=1, max_queued_tokens=400))
    assert small.warm(60)
    gate = ForwardGate(small, monkeypatch)
    gate.hold()
    text = "plain " * 60
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(small.maybe_rerank, "query", ["plain"], timeout_ms=PLENTY_MS, owner="first")]
        gate.wait_entered()
        asked.append(callers.submit(small.maybe_rerank, "query", [text], timeout_ms=PLENTY_MS, owner="much"))
        wait_until(lambda: small.metrics()["queued_pairs"] == 1, "a call waits")
        assert small.maybe_rerank("query", [text], timeout_ms=PLENTY_MS, owner="much").skipped == "overloaded"
        asked.append(callers.submit(small.maybe_rerank, "query", [text], timeout_ms=PLENTY_MS, owner="other"))
        # What has no owner has no share either.
        asked.append(callers.submit(small.maybe_rerank, "query", [text], timeout_ms=PLENTY_MS))
        wait_until(lambda: small.metrics()["queued_pairs"] == 3, "the others wait")
        gate.release()
        assert all(each.result(30).reranked for each in asked)
    small.close()


def test_the_time_a_call_would_take_is_judged_by_its_owners_turns_and_not_by_all_that_waits(tiny, gate):
    """Each pair takes a millisecond a token: 64 of the backlog's would take 20 s, and one turn of each is enough."""
    gate.hold()
    with ThreadPoolExecutor(6) as callers:
        asked = [callers.submit(tiny.maybe_rerank, "query", ["plain"], timeout_ms=PLENTY_MS, owner="first")]
        gate.wait_entered()
        long = ["plain " * 300] * 32
        asked += [callers.submit(tiny.maybe_rerank, "query", long, timeout_ms=600_000, owner="much") for _ in range(2)]
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 64, "the backlog waits")
        tiny._batcher.runner._pass_time.calibrate((1, 0.001), (1000, 1.0))
        short = callers.submit(tiny.maybe_rerank, "query", ["plain"], timeout_ms=5_000, owner="once")
        same = tiny.maybe_rerank("query", ["plain"], timeout_ms=5_000, owner="much")
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 65, "the short one was admitted")
        gate.release()
        assert same.skipped == "overloaded" and short.result(30).reranked
        assert all(each.result(60).reranked for each in asked)


def test_a_poisonous_passage_fails_its_own_caller_and_nobody_elses(tiny, gate):
    def poisoned(pairs):
        if any("yesterday" in pair for pair in pairs):
            raise RuntimeError("poison")

    gate.hold()
    with ThreadPoolExecutor(4) as callers:
        first = callers.submit(tiny.maybe_rerank, "query", ["plain"], timeout_ms=PLENTY_MS)
        gate.wait_entered()
        others = [
            callers.submit(tiny.maybe_rerank, "query", [text, "good"], timeout_ms=PLENTY_MS, owner=text)
            for text in ("plain", "yesterday", "dull")
        ]
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 6, "the callers wait")
        gate.before = poisoned
        gate.release()
        assert [each.result(30).skipped for each in (first, *others)] == [None, None, "device_error", None]
    assert tiny.metrics()["breaker"] == "closed"


def test_a_model_that_fails_whatever_the_pairs_is_asked_twice_more_whatever_the_batch(tiny, gate):
    def broken(pairs):
        raise RuntimeError("broken")

    gate.hold()
    with ThreadPoolExecutor(9) as callers:
        callers.submit(tiny.maybe_rerank, "query", ["plain"], timeout_ms=PLENTY_MS)
        gate.wait_entered()
        others = [
            callers.submit(tiny.maybe_rerank, "query", ["plain"], timeout_ms=PLENTY_MS, owner=str(n)) for n in range(6)
        ]
        wait_until(lambda: tiny.metrics()["queued_pairs"] == 6, "the callers wait")
        gate.before = broken
        gate.release()
        assert {each.result(30).skipped for each in others} == {"device_error"}
    lengths = [len(batch) for batch in gate.batches[1:]]  # those of eight are probes
    assert lengths[:3] == [6, 1, 1] and lengths.count(1) == 2


class Meter:
    """Notes what a queue tells."""

    def __init__(self):
        self.changes, self.waits, self.batches, self.refusals, self.failures = [], [], [], 0, 0
        self.callers, self.waited, self.batch = self.changes.append, self.waits.append, self.batches.append

    def refused(self):
        self.refusals += 1

    def failed(self):
        self.failures += 1


def test_the_queue_tells_its_depth_waits_batches_refusals_and_failures(folder, monkeypatch):
    meter = Meter()
    told = Reranker(RerankConfig(model=str(folder), device="cpu", parallel_passes=1, meter=meter))
    try:
        assert told.warm(60)
        gate = ForwardGate(told, monkeypatch)
        assert told.maybe_rerank("query", TEXTS, timeout_ms=PLENTY_MS).reranked
        assert (meter.changes, len(meter.waits), meter.batches) == ([1, -1], 1, [5])
        assert told.maybe_rerank("query", TEXTS, timeout_ms=0).skipped == "deadline"
        gate.hold()
        assert told.maybe_rerank("query", ["plain"], timeout_ms=200).skipped == "timeout"
        assert (meter.refusals, meter.failures) == (2, 0)
        gate.release()
        wait_until(lambda: len(meter.batches) == 2, "the held pass ends")
        gate.before = lambda pairs: 1 / 0
        assert told.maybe_rerank("query", ["plain"], timeout_ms=PLENTY_MS).skipped == "error"
        assert (meter.failures, sum(meter.changes), len(meter.waits)) == (1, 0, 3)
    finally:
        told.close()


def test_the_estimate_follows_the_model_and_a_probe_starts_it_again():
    pass_time = PassTime()
    pass_time.calibrate((100, 0.002), (1000, 0.011))
    assert pass_time.seconds(6000) == pytest.approx(0.061)
    for _ in range(30):
        pass_time.observe(1000, 0.110)
    assert pass_time.seconds(6000) == pytest.approx(0.61, rel=0.05)
    pass_time.start_again(1000, 0.011)
    assert pass_time.seconds(6000) == pytest.approx(0.061)


def test_a_few_slow_tiny_batches_hardly_move_the_estimate_for_large_ones():
    pass_time = PassTime()
    pass_time.calibrate((100, 0.002), (1000, 0.011))
    for _ in range(3):
        pass_time.observe(10, 0.010)
    assert pass_time.seconds(6000) < 0.08


def test_auto_keeps_candidate_order_where_the_weights_are_missing(tmp_path):
    auto = Reranker(RerankConfig(model=str(tmp_path / "none")))
    try:
        assert not auto.warm(30)
        kept = auto.maybe_rerank("cats", ["dogs", "cats"], timeout_ms=PLENTY_MS)
    finally:
        auto.close()
    assert (kept.backend, kept.reranked, kept.skipped) == ("cross_encoder", False, "no_backend")
    assert [result.candidate for result in kept.results] == ["dogs", "cats"]


def test_the_backend_that_went_is_no_choice_any_more(tiny):
    with pytest.raises(ValueError, match="auto, cross_encoder, none"):
        RerankConfig(backend="late_interaction")
    with pytest.raises(ValueError, match="auto, cross_encoder, none"):
        tiny.maybe_rerank("query", TEXTS, backend="late_interaction")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_scores_stay_finite_and_the_order_total_whatever_the_model_says(values):
    values = np.array(values)
    assert sorted(best_first(values)) == list(range(len(values)))
    assert ((sigmoid(values) >= 0) & (sigmoid(values) <= 1)).all()


# The process


def run_python(code: str, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **environment},
    )
    return done.stdout


FORK = """
import os, sys, reranker
reranker.configure(reranker.RerankConfig(model=sys.argv[1] if len(sys.argv) > 1 else {folder!r}, device="cpu"))
{before}
child = os.fork()
if child == 0:
    ready = reranker.warm(120)
    outcome = reranker.maybe_rerank("query", ["plain", "good"], timeout_ms=30_000)
    print(ready, outcome.reranked, outcome.skipped, reranker.get_rerank_metrics()["detail"], flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_settings_given_lazily_are_asked_for_once_and_by_the_first_call():
    asked = []

    def settings():
        asked.append(threading.get_ident())
        return RerankConfig(backend="none", model="a model of the site's")

    one = Reranker()
    one.configure_lazily(settings)
    assert asked == []
    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(lambda _: one.maybe_rerank("query", ["a", "b"]).skipped, range(8)))
    assert (found, len(asked)) == (["no_backend"] * 8, 1)
    assert one.metrics()["model"] == "a model of the site's"


def test_settings_given_outright_stand_before_those_given_lazily_earlier():
    one = Reranker()
    one.configure_lazily(lambda: pytest.fail("nobody needs these"))
    one.configure(RerankConfig(backend="none", model="chosen"))
    assert one.metrics()["model"] == "chosen"


def test_a_load_that_keeps_failing_is_logged_once_for_each_reason_until_one_succeeds(caplog):
    outcomes = iter(["nothing there", "nothing there", "other weights", "nothing there", "", "nothing there"])

    def make():
        if detail := next(outcomes):
            raise LoadFailure("no_backend", detail)
        return object()

    load = Load(make, reload_after_seconds=0.0)
    logged = []
    for _ in range(6):
        load.run()
        logged.append([record.args[1] for record in caplog.records])
        caplog.clear()
    assert logged == [["nothing there"], [], ["other weights"], [], [], ["nothing there"]]


@pytest.mark.slow
def test_a_forked_worker_loads_its_own_model(folder):
    before = "assert 'torch' not in sys.modules"
    assert run_python(FORK.format(folder=str(folder), before=before)).split() == ["True", "True", "None"]


@pytest.mark.slow
def test_a_model_loaded_before_the_fork_is_refused_and_not_waited_for(folder):
    out = run_python(FORK.format(folder=str(folder), before="assert reranker.warm(120)"))
    assert out.startswith("False False no_backend the model was loaded before the fork")


def test_threads_end_with_close(folder):
    # A reranker of a test before this one may not have ended yet.
    others = set(threading.enumerate())

    def ours():
        return [each for each in threading.enumerate() if each.name.startswith("reranker-") and each not in others]

    tiny = Reranker(RerankConfig(model=str(folder), device="cpu", parallel_passes=2))
    assert tiny.warm(60) and tiny.rerank("query", TEXTS, PLENTY_MS)
    # The owner and, since the model was warmed, one worker beside it.
    assert len(ours()) == 2
    tiny.close()
    assert not ours()
    assert tiny.warm(60) and tiny.rerank("query", TEXTS, PLENTY_MS)
    tiny.close()
    assert not ours()


# What operators run


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_bench_gives_a_row_per_length_and_number_of_callers(folder, way):
    config = RerankConfig(backend="cross_encoder", model=str(folder), device="cpu", dtype="float32")
    plan = BenchPlan(queries=6, candidates=3, token_counts=(24, 48), concurrencies=(1, 3))
    rows = run_bench([config], plan, way=way)
    assert [(row["tokens"], row["concurrency"]) for row in rows] == [(24, 1), (24, 3), (48, 1), (48, 3)]
    assert {"backend", "dtype", "candidates", "p50_ms", "p95_ms", "p99_ms", "per_second"} < set(rows[0])
    assert all(0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] and row["per_second"] > 0 for row in rows)


@pytest.mark.slow
def test_verify_holds_a_model_against_its_reference(folder, tmp_path):
    config = RerankConfig(backend="cross_encoder", model=str(folder), device="cpu", dtype="float32")
    report = verify(config)
    assert report["scores"] and report["weights_sha256"] and report["device"] == "cpu"
    write_reference(tmp_path / "reference.json", report)
    reference = read_reference(tmp_path / "reference.json")
    assert reference == as_reference(report)
    same = verify(RerankConfig(backend="cross_encoder", model=str(folder), device="cpu", dtype="bfloat16"), reference)
    assert same["findings"] == report["findings"] and same["largest_difference"] < 0.03

    reference["scores"][0][0] += 0.5
    reference["weights_sha256"] = "0" * 64
    assert len(verify(config, reference)["findings"]) == len(report["findings"]) + 2


def test_verify_says_what_is_missing(tmp_path):
    report = verify(RerankConfig(backend="cross_encoder", model=str(tmp_path / "none")))
    assert not report["ok"] and "the model's folder does not exist" in report["findings"][0]
