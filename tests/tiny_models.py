"""Models small enough to build in a test, real in all else: BERT, WordPiece, saved to disk."""

from __future__ import annotations

import string
import threading
import time
from pathlib import Path

GOOD = "good"
WORDS = [GOOD, "query", "plain", "dull", "what", "was", "said", "and", "when", "it", "yesterday", "nothing"]
_LETTERS = list(string.ascii_lowercase + string.digits)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *_LETTERS, *(f"##{c}" for c in _LETTERS)]
MAX_TOKENS = 512
SENTENCE_WORDS = ["query", "passage", "small", "large", "late", "bad", "good", "one", "two", "three", "four"]
TINY_DIMENSION = 32
# How far apart two dimensions of an embedding are; the layer norms even out all but the sign.
_MARK = 8.0


def build_cross_encoder(folder: Path, *, labels: int = 1, hand_set: bool = True) -> Path:
    """A cross-encoder whose score grows with the share of the pair's tokens that are the word GOOD.

    2 layers, 128 wide. The first attends to all tokens alike and so hands their mean to [CLS]; the
    second changes nothing; the classifier reads the one dimension in which GOOD is marked. Without
    `hand_set` the weights are random, and every part of the model matters.
    """
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=MAX_TOKENS).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=MAX_TOKENS,
        num_labels=labels,
    )
    model = BertForSequenceClassification(config)
    _mark_good(model) if hand_set else _scatter(model)
    model.save_pretrained(folder)
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(folder))
    return folder


def build_wide_vocabulary_cross_encoder(folder: Path) -> Path:
    """Of the default cross-encoder's shape, its 30,522 words included, with the vocabulary of the embedding model.

    The weights are random ones, always the same: it takes as long as the default, and its scores mean nothing.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from memory.embedding.model import DEFAULT_MODEL, resolve_model

    AutoTokenizer.from_pretrained(resolve_model(DEFAULT_MODEL), model_max_length=MAX_TOKENS).save_pretrained(folder)
    torch.manual_seed(11)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=30_522,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=MAX_TOKENS,
            num_labels=1,
        )
    )
    _scatter(model)
    model.save_pretrained(folder)
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(folder))
    return folder


def build_sentence_model(folder: Path) -> Path:
    """A sentence-transformers model of 2 layers, TINY_DIMENSION wide, always with the same weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(7)
    base, whole = folder / "base", folder / "whole"
    base.mkdir(parents=True)
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *SENTENCE_WORDS,
        *_LETTERS,
        *(f"##{c}" for c in _LETTERS),
    ]
    (base / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(base / "vocab.txt"), model_max_length=64).save_pretrained(base)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=TINY_DIMENSION,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(base)
    model = SentenceTransformer(modules=[Transformer(str(base)), Pooling(TINY_DIMENSION)], device="cpu")
    model.save(str(whole))
    return whole


def _mark_good(model) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        words = model.bert.embeddings.word_embeddings.weight
        words[:, 2], words[:, 3] = _MARK, -_MARK
        words[VOCABULARY.index(GOOD), :4] = torch.tensor([_MARK, -_MARK, 0.0, 0.0])
        first = model.bert.encoder.layer[0].attention
        first.self.value.weight.copy_(torch.eye(128))
        first.output.dense.weight.copy_(torch.eye(128))
        model.bert.pooler.dense.weight.copy_(0.1 * torch.eye(128))
        model.classifier.weight[:, 0] = 10.0
        model.classifier.bias.fill_(-3.0)


def _scatter(model) -> None:
    import torch

    torch.manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("LayerNorm.weight"):
                parameter.normal_(0.0, 0.1)


class ForwardGate:
    """Stands in the forward pass of a loaded cross-encoder: notes each batch, holds it, or breaks it.

    `batches` has, per pass, the decoded pairs. `before` is called in the model's thread ahead of
    the real forward pass, with the pairs; it may sleep, wait or raise.
    """

    def __init__(self, reranker, monkeypatch):
        cross_encoder = reranker.cross_encoder()
        self._tokenizer = cross_encoder.tokenizer
        self._forward = cross_encoder.model.forward
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.before = lambda pairs: None
        self.entered = threading.Semaphore(0)
        self.may_pass = threading.Event()
        self.may_pass.set()
        monkeypatch.setattr(cross_encoder.model, "forward", self._gated)

    def _gated(self, *args, **kwargs):
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        pairs = [self._tokenizer.decode(row[on.bool()]) for row, on in zip(ids, mask, strict=True)]
        self.batches.append(pairs)
        self.threads.add(threading.current_thread().name)
        self.entered.release()
        assert self.may_pass.wait(60)
        self.before(pairs)
        return self._forward(*args, **kwargs)

    def hold(self):
        self.may_pass.clear()

    def release(self):
        self.may_pass.set()

    def wait_entered(self):
        assert self.entered.acquire(timeout=30), "no batch reached the model"

    @property
    def seen(self) -> str:
        """All that reached the model, as one text."""
        return " | ".join(pair for batch in self.batches for pair in batch)


def wait_until(condition, what: str, seconds: float = 30.0):
    """A hang guard: polls until `condition()` is true."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"never happened: {what}"
        time.sleep(0.002)
