"""The cross-encoder's built form: the scores of the weights, each pair's its own, and no torch to run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reranker import RerankConfig, Reranker, RerankSkipped, openvino_graph
from reranker.backends import loading
from reranker.backends.build import PROBES, Unexportable, build
from reranker.backends.built_form import CORRELATION_MIN, FILES, ONNX, OPENVINO, SCORE_BOUND, is_like, place_of, probed
from reranker.backends.onnx_pairs import OnnxPairs
from reranker.built_forms import MANIFEST, digests
from reranker.loader import has_fast_bfloat16
from reranker.openvino_graph import padded
from reranker.scores import sigmoid
from tests.tiny_models import build_cross_encoder

ROOT = Path(__file__).resolve().parents[2]
PLENTY_MS = 30_000
TEXTS = ["plain dull", "good good plain dull", "good plain dull dull", "good good good", "was it said " * 200, ""]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random ones, so that every part of the model matters."""
    return build_cross_encoder(tmp_path_factory.mktemp("model") / "tiny", hand_set=False)


@pytest.fixture(scope="module")
def models(weights, tmp_path_factory) -> Path:
    models = tmp_path_factory.mktemp("models")
    assert build(RerankConfig(model=str(weights)), models)
    return models


@pytest.fixture
def asked():
    """Makes rerankers, loaded, and closes them."""
    made: list[Reranker] = []

    def make(config: RerankConfig) -> Reranker:
        made.append(Reranker(config))
        made[-1].warm(60)
        return made[-1]

    yield make
    for each in made:
        each.close()


def config(weights: Path, models: Path | None, runtime="onnx", **options) -> RerankConfig:
    return RerankConfig(model=str(weights), models=models, runtime=runtime, **options)


def scores(reranker: Reranker, texts=TEXTS) -> np.ndarray:
    score_of = {
        result.candidate: result.score for result in reranker.rerank_or_raise("what was said", texts, PLENTY_MS)
    }
    return np.array([score_of[text] for text in texts])


def form_of(weights: Path, models: Path) -> Path:
    return place_of(config(weights, models), models).form


def test_its_scores_are_those_of_the_weights_within_the_bound(weights, models, asked, runtime):
    ours = asked(config(weights, models, runtime))
    theirs = asked(config(weights, None, "torch", device="cpu", dtype="float32"))
    assert (ours.metrics()["runtime"], theirs.metrics()["runtime"]) == (runtime, "torch")
    assert np.ptp(scores(theirs)) > 0.02
    np.testing.assert_allclose(scores(ours), scores(theirs), atol=SCORE_BOUND)
    assert ours.metrics()["weights_sha256"] == theirs.metrics()["weights_sha256"]


def test_a_pairs_score_does_not_depend_on_what_others_are_read_with_it(weights, models, asked, runtime):
    texts = [*TEXTS, *(f"{word} was it said" for word in ("good", "plain", "dull", "what"))]
    for threads in (1, 2):
        ours = asked(config(weights, models, runtime, parallel_passes=threads))
        alone = np.array([scores(ours, [text])[0] for text in texts])
        assert np.array_equal(scores(ours, texts), alone)


def test_pairs_of_one_length_are_read_together_where_that_tells_on_none(weights, models, asked, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    texts = [f"{word} was it said" for word in ("good", "plain", "dull", "what", "and", "when", "was")]
    ours = asked(config(weights, models, "openvino"))
    alone = np.array([scores(ours, [text])[0] for text in texts])
    graph, sizes = ours.ready_backend()._graph._graph, []
    run = graph._run
    monkeypatch.setattr(graph, "_run", lambda rows, length: sizes.append(len(rows)) or run(rows, length))
    # Which sizes tell on none is this processor's matter.
    assert np.array_equal(scores(ours, texts), alone) and set(sizes) <= {*graph._sizes, 1}
    sizes.clear()
    graph._sizes = (4, 2)
    np.testing.assert_allclose(scores(ours, texts), alone, atol=SCORE_BOUND)
    assert sizes == [4, 2, 1]
    # Where company tells, each is read alone.
    monkeypatch.setattr(graph, "_run", lambda rows, length: run(rows, length) + (len(rows) > 1))
    graph.warm(64)
    assert graph._sizes == () and np.array_equal(scores(ours, texts), alone)


def test_unlike_pairs_have_unlike_scores(weights, models, asked, runtime):
    """Of 8 bits a score would be one of a few."""
    rng = np.random.default_rng(5)
    texts = [
        " ".join(rng.choice(["good", "plain", "dull", "what", "and", "when", "was", "it", "said"], 9))
        for _ in range(200)
    ]
    backend = asked(config(weights, models, runtime)).ready_backend()
    logits = backend.score(backend.prepare("what was said", texts, float("inf")))
    assert len(np.unique(logits)) > 0.97 * len(set(texts))


def test_a_pair_costs_what_is_computed_for_it(weights, models, asked):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    exact, padding = (asked(config(weights, models, runtime)).ready_backend() for runtime in ("onnx", "openvino"))
    tokens = [pair.tokens for pair in exact.prepare("what", TEXTS, float("inf"))]
    positions = place_of(config(weights, models), models).manifest().positions
    computed = [padded(count, positions) for count in tokens]
    assert [pair.tokens for pair in padding.prepare("what", TEXTS, float("inf"))] == computed != tokens


@pytest.mark.parametrize("fault", [ImportError, RuntimeError("no primitive descriptor"), OSError("cannot be mapped")])
def test_where_openvino_cannot_run_it_onnx_runtime_does_and_the_log_says_so(
    weights, models, asked, monkeypatch, caplog, fault
):
    def fail():
        raise fault

    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(loading, "cpu_threads", lambda: 2)
    monkeypatch.setattr(openvino_graph, "openvino", fail)
    assert asked(config(weights, models, "auto", device="cpu")).metrics()["runtime"] == "onnx"
    assert "reranking not by openvino" in caplog.text
    assert "by openvino" in asked(config(weights, models, "openvino")).metrics()["detail"]


def test_where_onnx_runtime_cannot_run_it_torch_does(weights, copied, asked, monkeypatch, caplog):
    form = form_of(weights, copied)
    (form / ONNX).write_bytes(b"no graph")
    manifest = json.loads((form / MANIFEST).read_text())
    (form / MANIFEST).write_text(json.dumps(manifest | {"digests": digests(form, FILES)}))
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: False)
    assert asked(config(weights, copied, "auto", device="cpu")).metrics()["runtime"] == "torch"
    assert "reranking not by onnx" in caplog.text


def test_a_worker_with_more_threads_than_openvino_was_measured_with_has_onnx_runtime(
    weights, models, asked, monkeypatch
):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: True)
    for threads, runtime in ((1, "openvino"), (2, "openvino"), (3, "onnx")):
        monkeypatch.setattr(loading, "cpu_threads", lambda threads=threads: threads)
        assert asked(config(weights, models, "auto", device="cpu")).metrics()["runtime"] == runtime


def test_a_form_made_without_openvino_is_made_anew_once_it_is_there(weights, copied, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr(openvino_graph, "installed_version", lambda: "")
    assert build(config(weights, copied), copied, force=True) and not build(config(weights, copied), copied)
    monkeypatch.undo()
    assert not place_of(config(weights, copied), copied).is_good()
    assert build(config(weights, copied), copied) and not build(config(weights, copied), copied)


def test_a_processor_that_multiplies_bfloat16_has_openvino_and_others_onnx(weights, models, asked, monkeypatch, caplog):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr(loading, "cpu_threads", lambda: 2)
    for is_fast, runtime, dtypes in (
        (True, "openvino", {"bfloat16"} if has_fast_bfloat16() else {"float32"}),
        (False, "onnx", {"int8", "float32"}),
    ):
        monkeypatch.setattr(loading, "has_fast_bfloat16", lambda is_fast=is_fast: is_fast)
        found = asked(config(weights, models, "auto", device="cpu")).metrics()
        assert found["runtime"] == runtime and found["dtype"] in dtypes
    assert not caplog.records


def test_without_openvinos_graph_onnx_runtime_reranks_and_the_log_says_why(weights, copied, asked, monkeypatch, caplog):
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(loading, "cpu_threads", lambda: 2)
    path = form_of(weights, copied) / MANIFEST
    manifest = json.loads(path.read_text())
    for name in FILES[2:]:
        (path.parent / name).unlink(missing_ok=True)
        manifest["digests"].pop(name, None)
    path.write_text(json.dumps(manifest))
    assert "no graph for OpenVINO" in asked(config(weights, copied, "openvino")).metrics()["detail"]
    assert asked(config(weights, copied, "auto", device="cpu")).metrics()["runtime"] == "onnx"
    assert "reranking not by openvino" in caplog.text


def test_where_openvino_cannot_make_its_graph_there_is_onnx_runtimes(weights, tmp_path, asked, monkeypatch, caplog):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")

    def fail():
        raise RuntimeError("no such operator")

    monkeypatch.setattr(openvino_graph, "openvino", fail)
    assert build(config(weights, tmp_path), tmp_path) and "for OpenVINO" in caplog.text
    place = place_of(config(weights, tmp_path), tmp_path)
    assert OPENVINO not in place.manifest().digests and place.is_good()
    assert not (place.form / OPENVINO).exists() and not list(place.form.glob("*masked*"))
    assert asked(config(weights, tmp_path)).metrics()["state"] == "ready"


def test_a_form_keeps_int8_only_where_the_probes_keep_the_bounds():
    rng = np.random.default_rng(3)
    expected = rng.normal(size=40)
    assert is_like(expected + 0.001 * rng.normal(size=40), expected)
    assert not is_like(expected + 0.3 * rng.normal(size=40), expected)
    # All in one place of the sigmoid, where scores hardly differ and the order is another.
    far = 12 + 0.1 * expected
    assert not is_like(far[::-1].copy(), far)
    assert CORRELATION_MIN < 1


def test_the_chosen_form_keeps_the_bounds_whatever_its_numbers(weights, models):
    place = place_of(config(weights, models), models)
    manifest = place.manifest()
    found, expected = probed(OnnxPairs(place.form / ONNX, manifest.inputs, manifest.dtype), place.form, manifest)
    assert len(found) == len(PROBES) and is_like(found, expected)
    assert np.abs(sigmoid(found) - sigmoid(expected)).max() <= SCORE_BOUND


def test_pairs_are_cut_as_torch_cuts_them(weights, models, asked, runtime):
    options = {"max_tokens": 64}
    ours = asked(config(weights, models, runtime, **options))
    theirs = asked(config(weights, None, "torch", device="cpu", dtype="float32", **options))
    np.testing.assert_allclose(scores(ours), scores(theirs), atol=SCORE_BOUND)
    long, longer = "was it " * 50, "was it " * 50 + "good " * 50
    assert scores(ours, [long])[0] == scores(ours, [longer])[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_changed_is_refused_and_built_anew(weights, copied, asked, name):
    path = form_of(weights, copied) / name
    if not path.exists():
        pytest.skip("OpenVINO is not installed")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused = asked(config(weights, copied))
    assert "changed since" in refused.metrics()["detail"]
    assert build(config(weights, copied), copied) and not build(config(weights, copied), copied)
    assert asked(config(weights, copied)).metrics()["state"] == "ready"


def test_where_this_processor_gives_other_scores_auto_takes_torch_and_says_so(weights, copied, asked, caplog):
    path = form_of(weights, copied) / MANIFEST
    manifest = json.loads(path.read_text())
    turned = [(question, text, -2 * logit) for question, text, logit in manifest["probes"]]
    path.write_text(json.dumps(manifest | {"probes": turned}))
    assert "other scores on this processor" in asked(config(weights, copied)).metrics()["detail"]
    automatic = asked(config(weights, copied, "auto", device="cpu"))
    assert automatic.metrics()["runtime"] == "torch"
    assert "reranking not by onnx, more slowly" in caplog.text


def test_without_a_form_onnx_says_so_and_auto_takes_torch(weights, tmp_path, asked):
    refused = asked(config(weights, tmp_path))
    with pytest.raises(RerankSkipped, match="no built form here"):
        refused.cross_encoder()
    assert asked(config(weights, tmp_path, "auto", device="cpu")).metrics()["runtime"] == "torch"


def test_a_dtype_that_is_asked_for_is_torchs(weights, models, asked):
    found = asked(config(weights, models, "auto", device="cpu", dtype="float32")).metrics()
    assert (found["runtime"], found["dtype"]) == ("torch", "float32")


def test_weights_that_are_not_the_expected_ones_are_refused_whatever_form_there_is(weights, models, asked):
    refused = asked(config(weights, models, "auto", expected_sha256="0" * 64))
    assert "not the expected ones" in refused.metrics()["detail"]


def test_a_model_that_reads_its_pairs_in_another_way_has_no_form(weights, models, tmp_path, monkeypatch):
    from sentence_transformers import CrossEncoder

    predict = CrossEncoder.predict
    monkeypatch.setattr(CrossEncoder, "predict", lambda *args, **options: predict(*args, **options) + 1)
    with pytest.raises(Unexportable, match="another way"):
        build(replace(config(weights, models)), tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_a_process_that_reranks_imports_neither_torch_nor_what_stands_on_it(weights, models, runtime):
    other = {"onnx": "openvino", "openvino": "onnxruntime"}[runtime]
    code = (
        "import sys; from pathlib import Path; from reranker import RerankConfig, Reranker\n"
        f"asked = Reranker(RerankConfig(model={str(weights)!r}, models=Path({str(models)!r}), runtime={runtime!r}))\n"
        "assert asked.warm(60); asked.rerank_or_raise('what', ['was', 'said'], 30_000); asked.close()\n"
        f"unwanted = 'torch', 'transformers', 'sentence_transformers', {other!r}\n"
        "print([name for name in unwanted if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]", done.stderr
