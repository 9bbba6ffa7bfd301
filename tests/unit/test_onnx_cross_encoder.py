"""The cross-encoder's built form: the scores of the weights, each pair's its own, and no torch to run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reranker import RerankConfig, Reranker, RerankSkipped
from reranker.backends.onnx_build import PROBES, Unexportable, build
from reranker.backends.onnx_form import CORRELATION_MIN, FILES, SCORE_BOUND, Graph, is_like, place_of, probed
from reranker.built_forms import MANIFEST
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
def copied(models, tmp_path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "models"))


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


def test_its_scores_are_those_of_the_weights_within_the_bound(weights, models, asked):
    ours = asked(config(weights, models, "auto"))
    theirs = asked(config(weights, None, "torch", device="cpu", dtype="float32"))
    assert (ours.metrics()["runtime"], theirs.metrics()["runtime"]) == ("onnx", "torch")
    assert np.ptp(scores(theirs)) > 0.02
    np.testing.assert_allclose(scores(ours), scores(theirs), atol=SCORE_BOUND)
    assert ours.metrics()["weights_sha256"] == theirs.metrics()["weights_sha256"]


def test_a_pairs_score_does_not_depend_on_what_others_are_read_with_it(weights, models, asked):
    one, two = (asked(config(weights, models, parallel_passes=count)) for count in (1, 2))
    alone = np.array([scores(one, [text])[0] for text in TEXTS])
    assert np.array_equal(scores(one), alone) and np.array_equal(scores(two), alone)


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
    found, expected = probed(Graph(place.form / "model.onnx", place.manifest()), place.manifest())
    assert len(found) == len(PROBES) and is_like(found, expected)
    assert np.abs(sigmoid(found) - sigmoid(expected)).max() <= SCORE_BOUND


def test_pairs_are_cut_as_torch_cuts_them(weights, models, asked):
    options = {"max_tokens": 64}
    ours = asked(config(weights, models, **options))
    theirs = asked(config(weights, None, "torch", device="cpu", dtype="float32", **options))
    np.testing.assert_allclose(scores(ours), scores(theirs), atol=SCORE_BOUND)
    long, longer = "was it " * 50, "was it " * 50 + "good " * 50
    assert scores(ours, [long])[0] == scores(ours, [longer])[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_changed_is_refused_and_built_anew(weights, copied, asked, name):
    path = form_of(weights, copied) / name
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
    assert "reranking with torch" in caplog.text


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


def test_a_process_that_reranks_imports_neither_torch_nor_what_stands_on_it(weights, models):
    code = (
        "import sys; from pathlib import Path; from reranker import RerankConfig, Reranker\n"
        f"asked = Reranker(RerankConfig(model={str(weights)!r}, models=Path({str(models)!r})))\n"
        "assert asked.warm(60); asked.rerank_or_raise('what', ['was', 'said'], 30_000); asked.close()\n"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]", done.stderr
