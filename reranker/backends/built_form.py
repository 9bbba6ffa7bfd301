"""A cross-encoder's built form (reranker/built_forms.py) as it is read: graphs, tokenizer, the manifest's probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reranker import openvino_graph
from reranker.backends import Pair
from reranker.backends.pair_tokenizer import PairTokenizer
from reranker.built_forms import FormManifest, form_folder, read_manifest
from reranker.config import RerankConfig
from reranker.faults import LoadFailure
from reranker.model_files import expected_weights, files_digest, is_at_hand, model_folder
from reranker.scores import sigmoid

# Of the way a form is made. Another one is another folder, so an old form is never taken for a new one.
RECIPE = "c2"
# The graph for ONNX Runtime, and where OpenVINO is installed for that.
TOKENIZER, ONNX, OPENVINO = "tokenizer.json", "model.onnx", openvino_graph.GRAPH
FILES = (TOKENIZER, ONNX, OPENVINO, openvino_graph.WEIGHTS)
# What a narrower dtype may do to a probe's score of 0-1, and how closely their logits must stand to those in float32.
SCORE_BOUND, CORRELATION_MIN = 0.02, 0.998
# Logits that lie no further apart say nothing about an order.
_ONE_SCORE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Manifest(FormManifest):
    """What is known of a cross-encoder's form.

    `dtype` is that of ONNX Runtime's graph, `int8` or `float32`; `positions` the most tokens of a pair, special ones
    included; `inputs` what the graphs read of one; `probes` are pairs with the logits that the weights give in float32;
    `head`, weights and then bias, makes the logit of what OpenVINO's graph gives; `openvino` is the version that made
    that graph or failed to, empty where none was installed.
    """

    dtype: str
    positions: int
    inputs: list[str]
    probes: list[tuple[str, str, float]]
    head: list[float]
    openvino: str


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
        """Whether a form stands there that lacks nothing `build_models` could make."""
        try:
            manifest = self.manifest()
        except LoadFailure:
            return False
        return openvino_graph.is_all_there_can_be(manifest.digests, manifest.openvino)


def place_of(config: RerankConfig, models: Path) -> Place:
    """Raises `LoadFailure` where the weights are not there, or not the expected ones."""
    folder = model_folder(config.model, revision=config.pinned_revision, cache_folder=config.cache_folder)
    weights = expected_weights(folder, config.expected_sha256, config.expected_files_sha256)
    return Place(folder, form_folder(models, weights, RECIPE), weights, files_digest(folder))


def has_weights(config: RerankConfig) -> bool:
    """Whether the configured model's weights are here; asks no network."""
    return is_at_hand(config.model, revision=config.pinned_revision, cache_folder=config.cache_folder)


class Graph(Protocol):
    """What runs a form's graph: `model` is the library's own object, `threads` those that it computes a pair with."""

    model: Any
    threads: int
    dtype: str

    def cost(self, tokens: int) -> int:
        """How many are computed for a pair of so many, padding included."""

    def logits(self, pairs: Sequence[Pair]) -> np.ndarray:
        """float32[n]; none depends on what else is read with it."""

    def warm(self, most_tokens: int) -> None:
        """Make what the first pairs of up to so many tokens would have to wait for."""


def probed(graph: Graph, form: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """What the graph gives for the probes, read as far as the model can, and what the weights gave: float32[n] each."""
    tokenizer = pair_tokenizer(form, manifest.positions)
    pairs = [tokenizer.prepare(question, [text], float("inf"))[0] for question, text, _ in manifest.probes]
    return graph.logits(pairs), np.array([logit for _, _, logit in manifest.probes], dtype=np.float32)


def is_like(logits: np.ndarray, expected: np.ndarray, *, slack: float = 1.0) -> bool:
    """Whether scores and order of the probes are those expected, within the bounds times `slack`."""
    scores_differ = np.abs(sigmoid(logits) - sigmoid(expected)).max()
    if np.ptp(expected) < _ONE_SCORE:
        return bool(scores_differ <= slack * SCORE_BOUND)
    correlation = np.corrcoef(logits, expected)[0, 1]
    return bool(scores_differ <= slack * SCORE_BOUND and 1 - correlation <= slack * (1 - CORRELATION_MIN))


def pair_tokenizer(form: Path, max_tokens: int) -> PairTokenizer:
    """The form's, which cuts pairs to `max_tokens`."""
    from tokenizers import Tokenizer

    return PairTokenizer(Tokenizer.from_file(str(form / TOKENIZER)), max_tokens)
