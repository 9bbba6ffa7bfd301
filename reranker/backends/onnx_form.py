"""A cross-encoder's built form (reranker/built_forms.py) as it is read: graph, tokenizer, and the manifest's probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reranker.backends import Pair
from reranker.backends.pair_tokenizer import PairTokenizer
from reranker.built_forms import FormManifest, form_folder, read_manifest
from reranker.config import RerankConfig
from reranker.faults import LoadFailure
from reranker.model_files import expected_weights, files_digest, is_at_hand, model_folder
from reranker.onnx_graph import session
from reranker.scores import sigmoid

# Of the way a form is made. Another one is another folder, so an old form is never taken for a new one.
RECIPE = "c1"
TOKENIZER, GRAPH = FILES = ("tokenizer.json", "model.onnx")
# What int8 may do to a probe's score of 0-1, and how closely the probes' logits must stand to those in float32.
SCORE_BOUND, CORRELATION_MIN = 0.02, 0.998
# Logits that lie no further apart say nothing about an order.
_ONE_SCORE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Manifest(FormManifest):
    """What is known of a cross-encoder's form.

    `dtype` is `int8` or `float32`; `positions` the most tokens of a pair, special ones included; `inputs` what the
    graph reads of one; `probes` are pairs with the logits that the weights give in float32.
    """

    dtype: str
    positions: int
    inputs: list[str]
    probes: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Place:
    """Where the configured model's form is, or would be, and the digests of what it must be of."""

    weights: Path
    form: Path
    weights_sha256: str
    files_sha256: str

    def manifest(self) -> Manifest:
        """Of the form there. Raises `LoadFailure` where there is none, or none of these weights that is whole."""
        found = read_manifest(Manifest, self.form, FILES, self.weights_sha256, self.files_sha256)
        if found is None:
            raise LoadFailure("no_backend", "the model has no built form here")
        return found

    def is_good(self) -> bool:
        try:
            return self.manifest() is not None
        except LoadFailure:
            return False


def place_of(config: RerankConfig, models: Path) -> Place:
    """Raises `LoadFailure` where the weights are not there, or not the expected ones."""
    folder = model_folder(config.model, revision=config.pinned_revision, cache_folder=config.cache_folder)
    weights = expected_weights(folder, config.expected_sha256, config.expected_files_sha256)
    return Place(folder, form_folder(models, weights, RECIPE), weights, files_digest(folder))


def has_weights(config: RerankConfig) -> bool:
    """Whether the configured model's weights are here; asks no network."""
    return is_at_hand(config.model, revision=config.pinned_revision, cache_folder=config.cache_folder)


class Graph:
    """The graph at `path` and its tokenizer, which reads pairs as far as the model can. Any thread may use it."""

    def __init__(self, path: Path, manifest: Manifest):
        self.session: Any = session(path, 1)
        self._inputs = manifest.inputs
        self._pairs = _pairs(path.with_name(TOKENIZER), manifest.positions)

    def read_at_most(self, max_tokens: int) -> None:
        """From now on; before anybody else has it."""
        self._pairs.read_at_most(max_tokens)

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        return self._pairs.prepare(query, texts, deadline)

    def logits(self, pairs: Sequence[Pair]) -> np.ndarray:
        """float32[n]; each pair is read alone."""
        return np.array([self._logit(pair) for pair in pairs], dtype=np.float32)

    def _logit(self, pair: Pair) -> float:
        read = {"input_ids": pair.content.ids, "token_type_ids": pair.content.type_ids}
        [[logit]] = self.session.run(None, {name: np.array([read[name]], dtype=np.int64) for name in self._inputs})
        return logit


def probed(graph: Graph, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """What the graph gives for the probes, read as far as the model can, and what the weights gave: float32[n] each."""
    pairs = [graph.prepare(question, [text], float("inf"))[0] for question, text, _ in manifest.probes]
    return graph.logits(pairs), np.array([logit for _, _, logit in manifest.probes], dtype=np.float32)


def is_like(logits: np.ndarray, expected: np.ndarray, *, slack: float = 1.0) -> bool:
    """Whether scores and order of the probes are those expected, within the bounds times `slack`."""
    scores_differ = np.abs(sigmoid(logits) - sigmoid(expected)).max()
    if np.ptp(expected) < _ONE_SCORE:
        return bool(scores_differ <= slack * SCORE_BOUND)
    correlation = np.corrcoef(logits, expected)[0, 1]
    return bool(scores_differ <= slack * SCORE_BOUND and 1 - correlation <= slack * (1 - CORRELATION_MIN))


def _pairs(path: Path, max_tokens: int) -> PairTokenizer:
    from tokenizers import Tokenizer

    return PairTokenizer(Tokenizer.from_file(str(path)), max_tokens)
