"""manage.py build_models: once at set-up, again only where need be, and never from weights of another digest."""

from __future__ import annotations

import io
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from memory.embedding import process
from memory.retrieval.reranker_config import deployed_config
from r1site import built_models
from reranker import Reranker
from tests.tiny_models import build_cross_encoder, build_sentence_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return build_sentence_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def deployment(settings, weights, tmp_path):
    """A deployment on that model, with nothing built yet."""
    settings.MEMORY_EMBEDDING_MODEL = str(weights)
    settings.MEMORY_MODELS_DIR = tmp_path / "models"
    process.forget_embedders()
    yield settings
    process.forget_embedders()


def built(*options: str) -> list[dict]:
    out = io.StringIO()
    call_command("build_models", *options, stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())["models"]


def test_it_builds_what_is_missing_and_leaves_a_good_one_alone(deployment):
    assert [built()[0]["built"], built()[0]["built"], built("--force")[0]["built"]] == [True, False, True]
    embedder = process.get_embedder()
    assert embedder.load().runtime in ("onnx", "openvino")
    embedder.close()


def test_the_second_model_is_built_too(deployment, weights):
    deployment.MEMORY_NEXT_EMBEDDING_MODEL = str(weights)
    process.forget_embedders()
    assert [each["built"] for each in built()] == [True, False]


def test_the_cross_encoder_is_built_where_its_weights_are_here_and_then_reranks(deployment, tmp_path):
    folder = build_cross_encoder(tmp_path / "cross")
    deployment.CROSS_ENCODER_MODEL, deployment.CROSS_ENCODER_REVISION = str(folder), ""
    assert [each["built"] for each in built()] == [True, True]
    assert [each["built"] for each in built()] == [False, False]
    assert built_models.all_built()
    reranks = Reranker(replace(deployed_config(), backend="cross_encoder"))
    try:
        assert reranks.warm(30) and reranks.metrics()["runtime"] in ("onnx", "openvino")
    finally:
        reranks.close()
    deployment.CROSS_ENCODER_SHA256 = "0" * 64
    assert not built_models.all_built()
    with pytest.raises(CommandError, match="not the expected ones"):
        built()


def test_weights_of_a_cross_encoder_that_are_not_here_are_not_fetched(deployment, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda *args: asked.append(args))
    deployment.CROSS_ENCODER_MODEL = "somebody/something"
    assert len(built()) == 1 and built_models.all_built()
    assert not asked


def test_weights_that_are_not_the_expected_ones_end_it_with_one_line_and_nothing_built(deployment):
    deployment.MEMORY_EMBEDDING_SHA256 = "0" * 64
    process.forget_embedders()
    with pytest.raises(CommandError, match="not the expected ones") as failure:
        built()
    assert failure.value.returncode == 1
    assert not deployment.MEMORY_MODELS_DIR.exists()


def test_a_folder_that_cannot_be_written_ends_it_with_one_line_that_names_it(deployment, tmp_path):
    """A file stands in the way, for root may write a folder whatever its mode."""
    (tmp_path / "a file").write_text("")
    deployment.MEMORY_MODELS_DIR = tmp_path / "a file" / "models"
    with pytest.raises(CommandError, match=r"no built form can be made in .*a file/models") as failure:
        built()
    assert failure.value.returncode == 1


def test_the_launcher_sees_by_digest_whether_there_is_anything_to_build(deployment):
    assert not built_models.all_built()
    built()
    assert built_models.all_built()
    form = next(path for path in deployment.MEMORY_MODELS_DIR.iterdir() if path.is_dir())
    (form / "model.onnx").write_bytes(b"no graph")
    assert not built_models.all_built()
    deployment.MEMORY_EMBEDDING_SHA256 = "0" * 64
    process.forget_embedders()
    assert not built_models.all_built()


def test_the_launcher_says_what_was_built_and_what_was_not():
    models = [
        {"model": "a", "built": True, "seconds": 12.5},
        {"model": "b", "built": False, "seconds": 0.1},
        {"model": "c", "built": None},
    ]
    assert built_models.in_words(json.dumps({"folder": "models", "models": models})) == (
        "a built in 12.5 s; b was built already; c has no built form: torch runs it"
    )


def test_a_model_that_has_no_such_form_is_said_and_stops_nobody(deployment, weights, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    whole = SentenceTransformer(str(weights), device="cpu")
    SentenceTransformer(modules=[whole[0], whole[1], Dense(32, 8)], device="cpu").save(str(tmp_path / "dense"))
    deployment.MEMORY_EMBEDDING_MODEL = str(tmp_path / "dense")
    process.forget_embedders()
    assert [each["built"] for each in built()] == [None]


def test_the_lock_empties_no_file_that_its_name_leads_to(deployment, tmp_path):
    ours = tmp_path / "ours"
    ours.write_text("kept")
    deployment.MEMORY_MODELS_DIR.mkdir()
    (deployment.MEMORY_MODELS_DIR / ".lock").symlink_to(ours)
    built()
    assert ours.read_text() == "kept"
