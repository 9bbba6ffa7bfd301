"""POST /memory/query with a reranker: a real model decides the order, or the answer says why none did."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager

import huggingface_hub
import pytest
from django.conf import settings as django_settings
from huggingface_hub.errors import LocalEntryNotFoundError

import reranker
from memory.retrieval import rerank
from memory.retrieval.reranker_config import deployed_config
from memory.rollout.flags import FLAGS, forget_flags, set_flag
from r1site.settings.test import TEST_ROOT
from reranker.batcher import Batcher
from tests.tiny_models import build_cross_encoder, wait_until

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])

QUESTION = "what was said yesterday"
# The cross-encoder's order is by share of "good"; the embedding model's by nearness to the question.
NOTES = {
    "said": "what was said yesterday, and when it was said",
    "some": "yesterday it was good and said, what was good",
    "most": "good good good good good good good",
    "none": "nothing dull and plain",
}
BY_SHARE_OF_GOOD = ["most", "some"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_cross_encoder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def _no_flags():
    forget_flags()
    yield
    for name in FLAGS:
        set_flag(name, None, actor="a test")
    forget_flags()


@pytest.fixture
def deploy(settings, folder):
    """Deploy a reranker with these settings, and wait for it; True if it is ready."""

    def with_settings(**values) -> bool:
        # A busy machine must not decide a test's outcome; the longest budget there is.
        defaults = {"RERANK_ENABLED": True, "RERANK_CIRCUIT_MS": 10_000, "CROSS_ENCODER_MODEL": str(folder)}
        for name, value in {**defaults, "RERANK_BACKEND": "cross_encoder", **values}.items():
            setattr(settings, name, value)
        reranker.configure(deployed_config())
        return reranker.warm(60)

    yield with_settings
    reranker.close()
    reranker.configure_lazily(deployed_config)


@pytest.fixture
def notes(alice):
    for doc_id, text in NOTES.items():
        assert alice.index(doc_id, text, created_at="2026-01-01T00:00:00Z").status_code == 201
    return alice


def ask(person, **fields) -> dict:
    """The answer, without the decay that would move every score between two calls."""
    response = person.query(QUESTION, **{"top_k": 4, "decay_weight": 0, **fields})
    assert response.status_code == 200, response.content
    return response.json()


def ids(answer: dict) -> list[str]:
    return [result["doc_id"] for result in answer["results"]]


def is_candidate_order(answer: dict, reference: dict) -> bool:
    """The results are those of `reference`, to the byte."""
    return json.dumps(answer["results"]) == json.dumps(reference["results"])


def test_rerank_true_gives_the_models_order_and_false_the_candidates(deploy, notes):
    assert deploy()
    without, reranked = ask(notes, rerank=False), ask(notes, rerank=True)

    assert ids(without)[0] == "said"
    assert ids(reranked)[:2] == BY_SHARE_OF_GOOD
    assert sorted(ids(reranked)) == sorted(ids(without))

    assert (reranked["reranked"], without["reranked"]) == (True, False)
    assert reranked["rerank"] == {"backend": "cross_encoder", "skipped": None}
    assert without["rerank"] == {"backend": "none", "skipped": "not_requested"}
    assert reranked["took_ms"]["rerank"] > 0
    assert reranked["took_ms"]["total"] >= reranked["took_ms"]["rerank"]


def test_a_reranked_results_score_is_the_models_and_the_earlier_stages_stay(deploy, notes):
    assert deploy()
    fused = {result["doc_id"]: result["scores"]["fused"] for result in ask(notes, rerank=False)["results"]}
    results = ask(notes)["results"]
    for result in results:
        assert result["score"] == result["scores"]["rerank"]
        assert result["scores"]["fused"] == fused[result["doc_id"]]
        assert 0 < result["score"] < 1
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[1] > scores[2]


@pytest.mark.parametrize(
    ("deployed", "rerank"),
    [
        ({"RERANK_ENABLED": False}, {"backend": "none", "skipped": "disabled"}),
        ({"RERANK_BACKEND": "none"}, {"backend": "none", "skipped": "no_backend"}),
        ({"CROSS_ENCODER_MODEL": "/nowhere/at/all"}, {"backend": "cross_encoder", "skipped": "no_backend"}),
    ],
)
def test_a_skipped_answer_is_candidate_order_to_the_byte_and_says_why(deploy, notes, deployed, rerank):
    assert deploy(**deployed) == (rerank["skipped"] == "disabled")
    reference = ask(notes, rerank=False)
    answer = ask(notes)
    assert is_candidate_order(answer, reference)
    assert (answer["reranked"], answer["rerank"]) == (False, rerank)
    assert all(result["scores"]["rerank"] is None for result in answer["results"])
    assert set(answer) == set(reference) and set(answer["took_ms"]) == set(reference["took_ms"])


def test_flags_win_over_settings(deploy, notes):
    assert deploy()

    def asked_with(**flags) -> dict:
        for name in FLAGS:
            set_flag(name, flags.get(name), actor="a test")
        forget_flags()
        return ask(notes)

    assert asked_with()["reranked"]
    assert asked_with(RERANK_ENABLED=False)["rerank"] == {"backend": "none", "skipped": "disabled"}
    assert asked_with(RERANK_BACKEND="none")["rerank"] == {"backend": "none", "skipped": "no_backend"}
    assert asked_with(RERANK_ENABLED=True)["reranked"]


def test_auto_keeps_candidate_order_where_there_are_no_weights(deploy, notes):
    assert not deploy(RERANK_BACKEND="auto", CROSS_ENCODER_MODEL="/nowhere/at/all")
    answer = ask(notes)
    assert answer["rerank"] == {"backend": "cross_encoder", "skipped": "no_backend"}
    assert is_candidate_order(answer, ask(notes, rerank=False))


def test_the_model_loads_whatever_the_budget_of_a_call(deploy, notes):
    """Its warm-up is longer than most calls; the budget is the callers'."""
    assert deploy(RERANK_CIRCUIT_MS=1)
    assert ask(notes)["rerank"]["skipped"] in ("deadline", "timeout")


def test_only_the_pool_is_reranked(deploy, notes):
    assert deploy()
    assert ids(ask(notes, rerank=False, top_k=2)) == ["said", "some"]
    answer = ask(notes, top_k=2, rerank_pool=2)
    assert answer["reranked"] and ids(answer) == ["some", "said"]


def test_top_k_cuts_after_the_reranking_and_widens_a_smaller_pool(deploy, notes):
    assert deploy()
    assert ids(ask(notes, top_k=1)) == ["most"]
    assert len(ids(ask(notes, top_k=4, rerank_pool=1))) == 4
    assert ids(ask(notes, top_k=4, rerank_pool=1))[0] == "most"


def test_the_flag_sets_the_pool_of_queries_that_name_none(deploy, notes):
    assert deploy()
    set_flag("RERANK_POOL", 1, actor="a test")
    forget_flags()
    assert ids(ask(notes, top_k=1)) == ["said"]
    assert ids(ask(notes, top_k=1, rerank_pool=4)) == ["most"]


def test_a_user_with_nothing_gets_an_empty_answer(deploy, stranger):
    assert deploy()
    answer = ask(stranger)
    assert (answer["results"], answer["reranked"]) == ([], False)
    assert answer["rerank"] == {"backend": "none", "skipped": "empty"}


# A shell: it starts Django, without gunicorn's hook.
PLAIN_PROCESS = """
import json, sys
import django
django.setup()
loaded_by_start = sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules))

import reranker
ready = reranker.warm(120)

from types import SimpleNamespace
from memory.retrieval.rerank import rerank_candidates
pool = [SimpleNamespace(text=text, score=0.5, rerank=None) for text in ("plain", "good good", "good plain")]
found = rerank_candidates("query", pool, wanted=True)
print(json.dumps({
    "apps": "reranker" in [app.name for app in django.apps.apps.get_app_configs()],
    "loaded_by_start": loaded_by_start,
    "ready": ready,
    "model": reranker.get_rerank_metrics()["model"],
    "order": [candidate.text for candidate in found.candidates],
    "skipped": found.skipped,
}))
reranker.close()
"""


def deployed_with(folder) -> dict[str, str]:
    """The environment of another process with this reranker, on this suite's database."""
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "r1site.settings.dev",
        "R1_VAR_DIR": str(TEST_ROOT),
        "CROSS_ENCODER_MODEL": str(folder),
        "RERANK_BACKEND": "cross_encoder",
        "RERANK_CIRCUIT_MS": "10000",
        "MEMORY_QUERY_SECONDS": "60",
    }


def test_the_settings_hold_in_a_process_without_gunicorns_hook(folder):
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-c", PLAIN_PROCESS],
        cwd=django_settings.BASE_DIR, capture_output=True, text=True, timeout=240,
        env=deployed_with(folder),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "apps": True,
        "loaded_by_start": [],
        "ready": True,
        "model": str(folder),
        "order": ["good good", "good plain", "plain"],
        "skipped": None,
    }


# The library's own server: it knows no hooks, and of the service only the application.
PLAIN_SERVER = """
from wsgiref.simple_server import make_server
from r1site.wsgi import application

with make_server("127.0.0.1", 0, application) as server:
    print(server.server_port, flush=True)
    server.serve_forever()
"""


@contextmanager
def served_plainly(folder, log):
    """The service under `wsgiref`; gives its address."""
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-c", PLAIN_SERVER],
            cwd=django_settings.BASE_DIR, stdout=subprocess.PIPE, stderr=stderr, text=True, env=deployed_with(folder),
        )  # fmt: skip
    try:
        port = server.stdout.readline().strip()
        assert port, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.communicate()


def test_under_another_server_a_query_is_reranked_by_the_settings(folder, notes, tmp_path):
    def asked() -> dict:
        body = {"query": QUESTION, "top_k": 4, "decay_weight": 0}
        headers = {"Authorization": f"Bearer {notes.token()}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/api/v1/memory/query", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    with served_plainly(folder, tmp_path / "log") as address:
        # Nobody has warmed it: the first call begins the load.
        wait_until(lambda: asked()["rerank"]["skipped"] != "loading", "the model is loaded", seconds=120)
        answer = asked()
    assert answer["rerank"] == {"backend": "cross_encoder", "skipped": None}
    assert ids(answer)[:2] == BY_SHARE_OF_GOOD


def test_the_turns_taken_in_the_rerankers_queue_are_the_users_own(alice, bob, deploy, monkeypatch):
    owners = []
    score = Batcher.score

    def noted(self, query, texts, started, timeout_ms, owner=None):
        owners.append(owner)
        return score(self, query, texts, started, timeout_ms, owner)

    monkeypatch.setattr(Batcher, "score", noted)
    assert deploy()
    for person in (alice, bob):
        person.index("said", NOTES["said"])
        assert person.query(QUESTION).json()["rerank"]["skipped"] is None
    assert owners == [alice.user_hash, bob.user_hash]


def test_a_worker_does_not_wait_for_weights_that_must_be_fetched_first(deploy, settings, monkeypatch, tmp_path):
    fetched = threading.Event()

    def fetching(name, *, local_files_only=False, **wanted):
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        assert fetched.wait(60)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetching)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    settings.CROSS_ENCODER_MODEL, settings.RERANK_BACKEND = "somebody/something", "cross_encoder"
    monkeypatch.setattr(rerank, "WARM_SECONDS", 120.0)
    reranker.configure(deployed_config())
    try:
        rerank.warm_reranker()
        assert not fetched.is_set() and reranker.get_rerank_metrics()["state"] == "loading"
    finally:
        fetched.set()
