"""The embedding model's built form: what it is made from, what vouches for it, and that it runs without torch.

OpenVINO computes in bfloat16 on processors that multiply it and in float32 on all others: what is asked of it holds on
both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from memory.embedding import backends, openvino_reader
from memory.embedding.build import Unexportable, build
from memory.embedding.built_form import FILES, MANIFEST, digests, form_folder
from memory.embedding.embedder import Embedder
from memory.errors import ModelUnavailable
from reranker import loader, onnx_graph, openvino_graph
from reranker.faults import LoadFailure
from reranker.model_files import weights_digest
from reranker.openvino_graph import padded
from tests.tiny_models import SENTENCE_WORDS, build_sentence_model

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "query passage",
    "small",
    " large late  bad ",
    "a b c d e f g h i j k l m n o p",
    " ".join(SENTENCE_WORDS * 30),
    "",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return build_sentence_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def models(weights, tmp_path_factory) -> Path:
    models = tmp_path_factory.mktemp("models")
    assert build(weights, models, sha256=None, files_sha256=None)
    return models


def embedder(weights: Path, models: Path | None, backend="onnx", **options) -> closing[Embedder]:
    return closing(Embedder(str(weights), backend=backend, models=models, **options))


def form_of(weights: Path, models: Path) -> Path:
    return form_folder(models, weights_digest(weights))


def test_its_vectors_are_those_of_the_weights(weights, models, runtime):
    with embedder(weights, models, runtime) as built, embedder(weights, None, "torch") as torch:
        assert built.load().runtime == runtime
        for ours, theirs in (
            (built.embed_passages(TEXTS), torch.embed_passages(TEXTS)),
            (
                np.stack([built.embed_query(text) for text in TEXTS]),
                np.stack([torch.embed_query(text) for text in TEXTS]),
            ),
        ):
            assert ours.dtype == np.float32 and ours.shape == theirs.shape
            assert (ours * theirs).sum(axis=1).min() > {"onnx": 0.999999, "openvino": 0.9999}[runtime]


def test_a_texts_vector_does_not_depend_on_what_others_are_read_with_it(weights, models, runtime):
    with embedder(weights, models, runtime) as built:
        alone = np.stack([built.embed_passages([text])[0] for text in TEXTS])
        assert np.array_equal(built.embed_passages(TEXTS), alone)
        asked = np.stack([built.embed_query(text) for text in TEXTS])
        with ThreadPoolExecutor(len(TEXTS)) as callers:
            assert np.array_equal(np.stack(list(callers.map(built.embed_query, TEXTS))), asked)


def test_it_counts_and_cuts_tokens_as_torch_does(weights, models, runtime):
    with (
        embedder(weights, models, runtime, max_tokens=12) as built,
        embedder(weights, None, "torch", max_tokens=12) as torch,
    ):
        assert built.max_tokens == torch.max_tokens == 12
        counted = [torch.load().cost_tokens(text) for text in TEXTS]
        model = built.load()
        prepared = [model.prepared("passage", text) for text in TEXTS]
        assert [model.cost_tokens(ids) for ids in prepared] == [model._reader.cost(tokens) for tokens in counted]
        long, longer = "small " * 10, "small " * 10 + "late " * 50
        assert np.array_equal(built.embed_passages([long]), built.embed_passages([longer]))


def test_lengths_go_in_steps_up_to_what_the_model_can_read():
    steps = sorted({padded(tokens, 512) for tokens in range(513)})
    assert steps == [16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 320, 384, 448, 512]
    assert all(tokens <= padded(tokens, 512) for tokens in range(513))
    assert padded(65, 70) == 70


def test_a_text_of_any_length_is_read_past_the_padding_behind_it(weights, models):
    """This model has 64 positions, which no step need be a part of."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    texts = [" ".join((SENTENCE_WORDS * 20)[:words]) for words in (1, 13, 14, 15, 16, 30, 31, 47, 60, 62, 63, 90)]
    with embedder(weights, models, "openvino") as built, embedder(weights, None, "torch") as torch:
        assert (built.embed_passages(texts) * torch.embed_passages(texts)).sum(axis=1).min() > 0.9999


def test_short_texts_are_read_together_with_the_vectors_that_each_has_alone(weights, models, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    short = [" ".join((SENTENCE_WORDS * 3)[first : first + words]) for first in range(6) for words in (2, 9, 16, 29)]
    with embedder(weights, models, "openvino") as built:
        model = built.load()
        reader, sizes = model._reader.graph, []
        run = reader._run
        monkeypatch.setattr(reader, "_run", lambda texts, length: sizes.append(len(texts)) or run(texts, length))
        together = model.encode("passage", short)
        assert sum(sizes) == len(short) and 4 in sizes
        alone = np.stack([model.encode("passage", [text])[0] for text in short])
        assert np.array_equal(together, alone)
        sizes.clear()
        # A processor on which company told is one where each is read alone.
        monkeypatch.setattr(reader, "_run", lambda texts, length: run(texts, length) + (len(texts) > 1))
        reader.warm(64)
        monkeypatch.setattr(reader, "_run", lambda texts, length: sizes.append(len(texts)) or run(texts, length))
        assert np.array_equal(model.encode("passage", short), alone) and set(sizes) == {1}


def test_as_many_threads_compute_a_text_as_a_worker_has_cores_and_two_at_most(monkeypatch):
    for allowed, expected in (("1", 1), ("2", 2), ("8", 2)):
        monkeypatch.setattr(onnx_graph, "cpu_cores", lambda: 16)
        monkeypatch.setenv("OMP_NUM_THREADS", allowed)
        assert openvino_reader.threads_a_text() == expected


def test_two_threads_give_the_vectors_that_one_gives_and_are_bound_to_no_core(weights, models, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    vectors, cores = [], os.sched_getaffinity(0)
    for threads in (1, 2):
        monkeypatch.setattr(openvino_reader, "threads_a_text", lambda threads=threads: threads)
        monkeypatch.setattr(openvino_reader, "threads_a_question", lambda threads: threads)
        with embedder(weights, models, "openvino") as built:
            vectors.append(built.embed_passages(TEXTS))
            assert built.load().is_one_thread == built._queue._is_one_thread == (threads == 1)
            assert all(bound == cores for bound in _cores_of_threads())
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.9999


def test_by_amx_a_question_has_one_thread_and_elsewhere_what_there_are(monkeypatch):
    for flags, expected in (({"amx_bf16"}, 1), ({"avx512_bf16"}, 2), (set(), 2)):
        monkeypatch.setattr(openvino_reader, "cpu_flags", lambda flags=flags: flags)
        assert openvino_reader.threads_a_question(2) == expected


def test_a_documents_long_texts_are_read_by_the_graph_with_all_threads_once_it_is_there(weights, models, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr(openvino_reader, "threads_a_text", lambda: 2)
    texts = ["small", "late " * 30, "small late bad", "large " * 20]
    with embedder(weights, models, "openvino") as one_graph:
        expected = one_graph.embed_passages(texts)
    monkeypatch.setattr(openvino_reader, "threads_a_question", lambda threads: 1)
    monkeypatch.setattr(openvino_reader, "_LONG_BOUND", 16)
    with embedder(weights, models, "openvino") as built:
        reader = built.load()._reader
        documents, runs = reader._for_documents, []
        deadline = time.monotonic() + 30
        while documents._graph is None and time.monotonic() < deadline:
            assert (built.embed_passages(texts) * expected).sum(axis=1).min() > 0.9999
        for name, graph in (("all", documents._graph), ("one", reader.graph)):
            run = graph._run
            monkeypatch.setattr(
                graph, "_run", lambda rows, length, name=name, run=run: runs.append((name, length)) or run(rows, length)
            )
        assert (built.embed_passages(texts) * expected).sum(axis=1).min() > 0.9999
    assert {name for name, length in runs if length > 16} == {"all"}
    assert {name for name, length in runs if length <= 16} == {"one"}


def _cores_of_threads() -> Iterator[set[int]]:
    """What each thread of this process may run on; one that ends meanwhile is left out."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):
            yield os.sched_getaffinity(int(thread))


def test_a_text_is_cut_as_its_tokenizer_would_cut_it(weights, models):
    texts = [*TEXTS, "[SEP] [CLS] [PAD]", "small " * 2_000, "  "]
    with embedder(weights, models) as built:
        model = built.load()
        cutting = Tokenizer.from_str(model.tokenizer.to_str())
        for tokens in (2, 3, 16, 64, 512):
            cutting.enable_truncation(tokens)
            cut = [model._cut(text, tokens).tolist() for text in texts]
            assert cut == [encoding.ids for encoding in cutting.encode_batch_fast(texts)]


def test_a_processor_that_multiplies_bfloat16_has_openvino_and_others_onnx(weights, models, monkeypatch, caplog):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    for flags, runtime in (({"fpu", "amx_bf16"}, "openvino"), ({"avx512_bf16"}, "openvino"), (set(), "onnx")):
        monkeypatch.setattr(loader, "cpu_flags", lambda flags=flags: flags)
        with embedder(weights, models, "auto") as automatic:
            assert automatic.load().runtime == runtime
    assert not caplog.records


def test_no_batch_takes_more_than_its_tokens_with_the_padding(weights, models, runtime):
    with embedder(weights, models, runtime) as built:
        model, batches, computed = built.load(), [], []
        encode, reader = built._queue._encode, model._reader
        built._queue._encode = lambda task, texts: batches.append(len(texts)) or encode(task, texts)
        if runtime == "openvino":
            run = reader.graph._run
            reader.graph._run = lambda texts, length: computed.append(len(texts) * length) or run(texts, length)
        else:
            read = reader._read
            reader._read = lambda ids: computed.append(len(ids)) or read(ids)
        built.embed_passages(["small"] * 170)
    assert sum(batches) == 170
    assert sum(computed) <= len(batches) * model.batch_tokens
    assert max(batches) <= model.batch_tokens // reader.cost(3)


@pytest.mark.parametrize(
    "fault", [ImportError, RuntimeError("no primitive descriptor"), OSError("cannot be mapped"), TypeError("new API")]
)
def test_where_openvino_cannot_run_it_onnx_does_and_the_log_says_so(weights, models, monkeypatch, caplog, fault):
    def fail(*arguments):
        raise fault

    monkeypatch.setattr(backends, "has_fast_bfloat16", lambda: True)
    monkeypatch.setattr(openvino_graph, "openvino", fail)
    with embedder(weights, models, "auto") as automatic:
        assert automatic.load().runtime == "onnx"
    assert "embedding not by openvino" in caplog.text and "Traceback" in caplog.text
    with embedder(weights, models, "openvino") as asked_for, pytest.raises(ModelUnavailable, match="by openvino"):
        asked_for.load()


def test_where_onnx_runtime_cannot_run_it_torch_does(weights, copied, monkeypatch, caplog):
    """What it raises is none of Python's errors, nor RuntimeError."""
    form = form_of(weights, copied)
    (form / "model.onnx").write_bytes(b"no graph")
    manifest = json.loads((form / MANIFEST).read_text())
    (form / MANIFEST).write_text(json.dumps(manifest | {"digests": digests(form)}))
    monkeypatch.setattr(backends, "has_fast_bfloat16", lambda: False)
    with embedder(weights, copied, "auto") as automatic:
        assert automatic.load().runtime == "torch"
    assert "embedding not by onnx" in caplog.text and "Traceback" in caplog.text
    with embedder(weights, copied) as asked_for, pytest.raises(ModelUnavailable, match="cannot be run by onnx"):
        asked_for.load()


def test_a_graph_that_takes_one_text_only_has_each_read_alone(weights, models):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with embedder(weights, models, "openvino") as built:
        reader = built.load()._reader.graph
        run = reader._run

        def one_only(texts, length):
            if len(texts) > 1:
                raise RuntimeError("shapes do not match")
            return run(texts, length)

        reader._run = one_only
        reader.warm(64)
        assert built.embed_passages(["small", "late", "bad"]).shape == (3, 32)


def test_a_form_made_without_openvino_runs_by_onnx_and_is_made_anew_once_it_is_there(weights, copied, monkeypatch):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr(openvino_graph, "installed_version", lambda: "")
    assert build(weights, copied, sha256=None, files_sha256=None, force=True)
    assert not build(weights, copied, sha256=None, files_sha256=None)
    with embedder(weights, copied, "openvino") as asked_for, pytest.raises(ModelUnavailable, match="build_models"):
        asked_for.load()
    with embedder(weights, copied, "auto") as automatic:
        assert automatic.load().runtime == "onnx"
    monkeypatch.undo()
    assert build(weights, copied, sha256=None, files_sha256=None)


def test_where_openvino_cannot_make_its_form_onnx_has_one_and_nothing_is_made_anew(
    weights, copied, monkeypatch, caplog
):
    def fail():
        raise OSError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr(openvino_graph, "installed_version", lambda: "1.0")
    monkeypatch.setattr(openvino_graph, "openvino", fail)
    assert build(weights, copied, sha256=None, files_sha256=None, force=True)
    assert "libopenvino.so" in caplog.text
    assert sorted(path.name for path in form_of(weights, copied).iterdir()) == [
        MANIFEST,
        "model.onnx",
        "tokenizer.json",
    ]
    assert not build(weights, copied, sha256=None, files_sha256=None)
    with embedder(weights, copied) as onnx:
        assert onnx.load().runtime == "onnx"
    refusal = r"`python manage.py build_models --force` tries again, where OpenVINO 1\.0 failed"
    with embedder(weights, copied, "openvino") as asked_for, pytest.raises(ModelUnavailable, match=refusal):
        asked_for.load()
    # Another version may do better.
    monkeypatch.undo()
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    assert build(weights, copied, sha256=None, files_sha256=None)
    assert (form_of(weights, copied) / "openvino.xml").exists()


def test_blanks_around_a_text_are_read_as_they_are_counted(weights, models, monkeypatch):
    """This tokenizer makes a token of each character, where most make nothing of blanks."""
    by_character = Tokenizer(WordLevel({character: number for number, character in enumerate(" ab")}))
    by_character.pre_tokenizer = Split("", "isolated")
    with embedder(weights, models) as onnx:
        model, read = onnx.load(), []
        monkeypatch.setattr(model, "tokenizer", by_character)
        monkeypatch.setattr(model._reader, "_read", lambda ids: read.append(ids) or np.ones(model.dimension))
        model.encode("passage", ["  ab "])
        assert [len(ids) for ids in read] == [model.cost_tokens(model.prepared("passage", "  ab "))] == [5]


def test_the_models_own_prompts_are_read_with_a_text(weights, tmp_path, runtime):
    with_prompts = Path(shutil.copytree(weights, tmp_path / "prompted"))
    settings = with_prompts / "config_sentence_transformers.json"
    settings.write_text(
        json.dumps(json.loads(settings.read_text()) | {"prompts": {"query": "query ", "document": "bad "}})
    )
    build(with_prompts, tmp_path / "models", sha256=None, files_sha256=None)
    with embedder(with_prompts, tmp_path / "models", runtime) as built, embedder(with_prompts, None, "torch") as torch:
        assert built.embed_query("small") @ torch.embed_query("small") > 0.99
        assert built.embed_passages(["small"])[0] @ torch.embed_passages(["small"])[0] > 0.99
        assert not np.array_equal(built.embed_query("small"), built.embed_passages(["small"])[0])
        assert built.max_tokens == torch.max_tokens


def test_it_is_built_once_and_again_only_where_it_is_damaged_or_asked_for(weights, copied):
    def again(**options) -> bool:
        return build(weights, copied, sha256=None, files_sha256=None, **options)

    assert not again()
    (form_of(weights, copied) / "model.onnx").write_bytes(b"no graph")
    assert again() and not again()
    assert again(force=True)
    assert {path.name for path in copied.iterdir()} == {".lock", form_of(weights, copied).name}


def test_two_who_build_at_once_make_it_once(weights, tmp_path):
    with ThreadPoolExecutor(2) as builders:
        made = list(builders.map(lambda _: build(weights, tmp_path, sha256=None, files_sha256=None), range(2)))
    assert sorted(made) == [False, True]


def test_nothing_is_built_from_weights_that_are_not_the_expected_ones(weights, tmp_path):
    with pytest.raises(LoadFailure):
        build(weights, tmp_path / "models", sha256="0" * 64, files_sha256=None)
    assert not form_of(weights, tmp_path / "models").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_changed_is_refused(weights, copied, name):
    path = form_of(weights, copied) / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with embedder(weights, copied) as onnx, pytest.raises(ModelUnavailable, match="changed since"):
        onnx.load()


def test_a_form_of_other_weights_is_refused_even_under_their_name(weights, copied):
    path = form_of(weights, copied) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": "0" * 64}))
    with embedder(weights, copied) as onnx, pytest.raises(ModelUnavailable, match="other weights"):
        onnx.load()
    path.write_text("{")
    with embedder(weights, copied) as onnx, pytest.raises(ModelUnavailable, match="manifest"):
        onnx.load()


def test_the_weights_themselves_are_checked_too(weights, models):
    with embedder(weights, models, expected_sha256="0" * 64) as onnx, pytest.raises(ModelUnavailable):
        onnx.load()


def test_where_this_processor_gives_other_vectors_auto_takes_torch_and_says_so(weights, copied, caplog):
    path = form_of(weights, copied) / MANIFEST
    manifest = json.loads(path.read_text())
    turned = [(text, [-x for x in vector]) for text, vector in manifest["probes"]]
    path.write_text(json.dumps(manifest | {"probes": turned}))
    with embedder(weights, copied) as onnx, pytest.raises(ModelUnavailable, match="other vectors on this processor"):
        onnx.load()
    with embedder(weights, copied, "auto") as automatic:
        assert automatic.load().runtime == "torch"
    assert "embedding not by onnx, more slowly" in caplog.text


def test_without_a_built_form_onnx_says_the_command_and_auto_takes_torch(weights, tmp_path, caplog):
    with embedder(weights, tmp_path) as onnx, pytest.raises(ModelUnavailable, match="build_models"):
        onnx.load()
    with embedder(weights, tmp_path, "auto") as automatic:
        assert automatic.embed_query("small").shape == (automatic.dimension,)
    assert "build_models" in caplog.text


def test_a_model_with_more_than_pooling_has_no_built_form(weights, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    whole = SentenceTransformer(str(weights), device="cpu")
    dense = SentenceTransformer(modules=[whole[0], whole[1], Dense(32, 8)], device="cpu")
    dense.save(str(tmp_path / "dense"))
    with pytest.raises(Unexportable, match="torch"):
        build(tmp_path / "dense", tmp_path / "models", sha256=None, files_sha256=None)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_first_token_pooling_is_exported_as_it_is(weights, tmp_path, runtime):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling

    whole = SentenceTransformer(str(weights), device="cpu")
    SentenceTransformer(modules=[whole[0], Pooling(32, pooling_mode="cls")], device="cpu").save(str(tmp_path / "cls"))
    build(tmp_path / "cls", tmp_path / "models", sha256=None, files_sha256=None)
    with (
        embedder(tmp_path / "cls", tmp_path / "models", runtime) as built,
        embedder(tmp_path / "cls", None, "torch") as torch,
    ):
        assert (built.embed_passages(TEXTS) * torch.embed_passages(TEXTS)).sum(axis=1).min() > 0.99


def test_a_process_that_embeds_imports_neither_torch_nor_what_reports_to_others(weights, models, runtime):
    code = (
        "import sys; from pathlib import Path; from memory.embedding.embedder import Embedder\n"
        f"embedder = Embedder({str(weights)!r}, backend={runtime!r}, models=Path({str(models)!r}))\n"
        "embedder.embed_query('small'); embedder.embed_passages(['late', 'bad'])\n"
        "unwanted = 'torch', 'transformers', 'sentence_transformers', 'openvino_telemetry'\n"
        "print([name for name in unwanted if sys.modules.get(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
