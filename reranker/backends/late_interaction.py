"""Late interaction: each token of the query looks for its nearest token in the passage.

The score is MaxSim (Khattab and Zaharia, ColBERT, 2020), with the mean over the query's tokens in
place of the sum, so that it is a cosine whatever the query's length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from reranker.backends import Pair
from reranker.backends.windows import best_windows, estimated_tokens
from reranker.config import RerankConfig, TokenEncoder
from reranker.results import RerankSkipped

# Of a text, what is looked at for a window: about 1,500 words.
_MOST_CHARACTERS = 8_192
_SPECIAL_TOKENS = 2
# About one caller's windows, and no fewer than eight. The encoder has a queue and batches of its own: taking several
# callers' together gains nothing, and who comes while they are encoded waits for all of them.
_BATCH_TOKENS, _BATCH_WINDOWS = 512, 8


class LateInteractionBackend:
    """Scores are mean cosines, -1 to 1, of the query's tokens with the best window of a passage.

    `encode` gives float32[n_tokens, d] for each text, in order.
    """

    name = "late_interaction"
    device = "the token encoder's"
    dtype = "the token encoder's"
    weights_sha256: str | None = None

    def __init__(self, encode: TokenEncoder, window_tokens: int, batch_tokens: int | None):
        self._encode = encode
        self._window_tokens = window_tokens
        # A window and a short query's share. What the queue first takes a long passage for: were it more than the
        # window really costs, calls that fit the budget would be refused before they are looked at.
        self.max_tokens = window_tokens + 2 * _SPECIAL_TOKENS
        self.batch_tokens = batch_tokens or max(_BATCH_TOKENS, _BATCH_WINDOWS * self.max_tokens)

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        if time.monotonic() >= deadline:
            raise RerankSkipped("deadline")
        windows = best_windows(query, [text[:_MOST_CHARACTERS] for text in texts], self._window_tokens)
        # The query is encoded once for all its passages of a batch.
        for_query = (estimated_tokens(query) + _SPECIAL_TOKENS) // max(1, len(texts))
        return [Pair(estimated_tokens(w) + _SPECIAL_TOKENS + for_query, (query, w)) for w in windows]

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair.content))
        vectors = dict(zip(texts, self._encode(texts), strict=True))
        return np.array([max_sim(vectors[q], vectors[window]) for q, window in (p.content for p in pairs)], np.float32)

    def release_memory(self) -> None:
        """The memory is the token encoder's, and so is giving it back."""

    def close(self) -> None:
        """It has no threads."""


def max_sim(query: np.ndarray, passage: np.ndarray) -> float:
    """Mean over query tokens of the best cosine with a passage token.

    float32[n, d] and float32[m, d]; 0 where either is empty.
    """
    if not len(query) or not len(passage):
        return 0.0
    return float((_unit_rows(query) @ _unit_rows(passage).T).max(axis=1).mean())


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def make_late_interaction_backend(config: RerankConfig) -> LateInteractionBackend:
    assert config.token_encoder is not None
    return LateInteractionBackend(config.token_encoder, config.window_tokens, config.batch_tokens)
