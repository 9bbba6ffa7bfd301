"""`manage.py rerank_bench` and `rerank_verify`: figures and findings on stdout, no database needed."""

from __future__ import annotations

import json

import pytest

from memory.management.commands import rerank_bench, rerank_verify
from reranker import RerankConfig
from reranker.backends import loading
from reranker.backends.build import build
from tests.tiny_models import build_cross_encoder

SMOKE = ["--queries", "4", "--candidates", "3", "--tokens", "24", "--callers", "1", "2"]
FIELDS = [
    "backend",
    "runtime",
    "dtype",
    "candidates",
    "tokens",
    "concurrency",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "per_second",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_cross_encoder(tmp_path_factory.mktemp("model") / "tiny")


def run(capsys, module, *arguments) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of the command line."""
    capsys.readouterr()
    status = 0
    name = module.__name__.rpartition(".")[2]
    try:
        module.Command().run_from_argv(["manage.py", name, *map(str, arguments)])
    except SystemExit as exc:
        status = exc.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def verified(capsys, *arguments) -> tuple[int, dict]:
    status, out, _ = run(capsys, rerank_verify, "--device", "cpu", *arguments)
    return status, json.loads(out)


def test_the_bench_prints_a_row_per_dtype_length_and_number_of_callers(capsys, folder, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "has_fast_bfloat16", lambda: False)
    settings.MEMORY_MODELS_DIR = tmp_path
    build(RerankConfig(model=str(folder)), settings.MEMORY_MODELS_DIR)
    status, out, err = run(capsys, rerank_bench, "--json", "--model", folder, "--device", "cpu", *SMOKE)
    rows = json.loads(out)["rows"]
    assert status == 0
    assert [(row["backend"], row["runtime"], row["dtype"], row["concurrency"]) for row in rows] == [
        ("cross_encoder", runtime, dtype, callers)
        for runtime, dtype in (("onnx", "float32"), ("torch", "bfloat16"), ("torch", "float32"))
        for callers in (1, 2)
    ]
    assert all(list(row) == FIELDS for row in rows)
    assert all((row["candidates"], row["tokens"]) == (3, 24) and 0 < row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert len(err.splitlines()) == len(rows)


def test_without_json_it_is_a_table(capsys, folder):
    chosen = ["--model", folder, "--device", "cpu", "--dtype", "float32"]
    status, out, _ = run(capsys, rerank_bench, *chosen, *SMOKE)
    lines = out.splitlines()
    assert (status, len(lines)) == (0, 4)
    assert lines[0].startswith("| backend | runtime | dtype |") and lines[2].startswith(
        "| cross_encoder | torch | float32 | 3 | 24 | 1 |"
    )


def test_a_p95_over_the_limit_is_a_finding(capsys, folder):
    chosen = ["--json", "--model", folder, "--device", "cpu", "--dtype", "float32"]
    for limit_ms, expected in ((0.001, 1), (1e6, 0)):
        status, out, err = run(capsys, rerank_bench, *chosen, *SMOKE, "--p95-limit-ms", limit_ms)
        assert (status, len(json.loads(out)["rows"])) == (expected, 2)
        assert ("over 0.001 ms" in err) == bool(expected)


def test_a_model_that_cannot_be_measured_is_a_finding(capsys, tmp_path):
    status, out, err = run(capsys, rerank_bench, "--json", "--model", tmp_path / "none", *SMOKE)
    assert (status, json.loads(out)["rows"]) == (1, [])
    for dtype in ("auto", "bfloat16", "float32"):
        assert f"cross_encoder {dtype} was not measured: no_backend: the model's folder does not exist" in err


PREDICT = ["--way", "predict"]


def test_what_the_queue_is_compared_with_is_measured_on_the_same_model(capsys, folder):
    status, out, _ = run(capsys, rerank_bench, "--json", "--model", folder, "--dtype", "float32", *PREDICT, *SMOKE)
    rows = json.loads(out)["rows"]
    assert status == 0
    assert [(row["backend"], row["concurrency"]) for row in rows] == [("cross_encoder", 1), ("cross_encoder", 2)]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--queries", "0"],
        ["--callers", "0"],
        ["--tokens", "8"],
        ["--way", "another"],
        ["--backend", "late_interaction"],
    ],
)
def test_what_cannot_be_measured_is_usage(capsys, wrong):
    assert run(capsys, rerank_bench, *wrong)[0] == 2


def test_a_machine_is_held_against_the_reference_that_another_one_wrote(capsys, folder, tmp_path):
    reference = tmp_path / "reference.json"
    chosen = ["--model", folder]
    status, report = verified(capsys, *chosen, "--dtype", "float32", "--write-reference", reference)
    assert (status, report["ok"], report["findings"], report["device"]) == (0, True, [], "cpu")
    assert set(json.loads(reference.read_text())) == {"backend", "model", "revision", "weights_sha256", "scores"}

    status, report = verified(capsys, *chosen, "--dtype", "bfloat16", "--reference", reference)
    assert (status, report["findings"]) == (0, [])
    assert report["largest_difference"] < 0.03


def test_other_weights_than_the_references_are_a_finding(capsys, folder, tmp_path):
    reference = tmp_path / "reference.json"
    verified(capsys, "--model", folder, "--write-reference", reference)
    other = build_cross_encoder(tmp_path / "other", hand_set=False)
    status, report = verified(capsys, "--model", other, "--reference", reference)
    assert (status, report["ok"]) == (1, False)
    assert any(finding.startswith("weights_sha256 is ") for finding in report["findings"])


def test_a_missing_model_is_a_finding_and_no_reference_is_written(capsys, tmp_path):
    reference = tmp_path / "reference.json"
    status, report = verified(capsys, "--model", tmp_path / "none", "--write-reference", reference)
    assert (status, report["scores"]) == (1, [])
    assert report["findings"] == ["no model: no_backend the model's folder does not exist"]
    assert not reference.exists()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"scores": []}'])
def test_a_file_that_is_no_reference_is_usage(capsys, tmp_path, content):
    path = tmp_path / "reference.json"
    if content is not None:
        path.write_text(content)
    assert run(capsys, rerank_verify, "--reference", path)[0] == 2
