"""A cross-encoder as torch runs it: reads query and passage together and says how well one answers the other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from reranker.backends import Pair
from reranker.backends.first_token import shorten_last_layer
from reranker.backends.pair_tokenizer import PairTokenizer
from reranker.backends.parallel_passes import ParallelPasses, cpu_threads
from reranker.config import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS
from reranker.faults import LoadFailure
from reranker.loader import LoadedModel

logger = logging.getLogger(__name__)

# bf16 scores of the same pair differ in the last place between batch shapes.
_LARGEST_DIFFERENCE = 0.05


class CrossEncoderBackend:
    """Scores are logits.

    Pairs are tokenised in their callers' threads and padded by the owner, who thus spends its time
    in the model.
    """

    name = "cross_encoder"
    runtime = "torch"

    def __init__(
        self, loaded: LoadedModel, max_tokens: int, batch_tokens: int | None, parallel_passes: int | None = None
    ):
        import torch
        from tokenizers import Tokenizer

        self._torch = torch
        self.model: Any = loaded.model
        self.device = loaded.device
        self.dtype = loaded.dtype
        self.weights_sha256: str | None = loaded.weights_sha256
        self.batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if loaded.device == "cpu" else GPU_BATCH_TOKENS)
        self.max_tokens = min(max_tokens, self.model.max_seq_length or max_tokens)

        of_model = self.model.tokenizer
        self._pairs = PairTokenizer(Tokenizer.from_str(of_model.backend_tokenizer.to_str()), self.max_tokens)
        self._pad_id = of_model.pad_token_id or 0
        self._with_types = "token_type_ids" in of_model.model_input_names
        if loaded.dtype in ("bfloat16", "float16"):
            self._keep_last_layer_exact()
        self._parallel: ParallelPasses | None = None
        self._shorten_and_compare()
        if loaded.device == "cpu" and parallel_passes != 1:
            self._parallel = ParallelPasses(parallel_passes or cpu_threads(), torch.set_num_threads)

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        return self._pairs.prepare(query, texts, deadline)

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        return self._parallel.score(self._forward, pairs) if self._parallel else self._forward(pairs)

    def _forward(self, pairs: Sequence[Pair]) -> np.ndarray:
        torch = self._torch
        longest = max(pair.tokens for pair in pairs)
        ids = np.full((len(pairs), longest), self._pad_id, dtype=np.int64)
        types = np.zeros_like(ids)
        mask = np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            ids[row, : pair.tokens] = pair.content.ids
            types[row, : pair.tokens] = pair.content.type_ids
            mask[row, : pair.tokens] = 1
        arrays = {"input_ids": ids, "attention_mask": mask}
        if self._with_types:
            arrays["token_type_ids"] = types
        with torch.inference_mode():
            features = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
            scores = self.model(features)["scores"]
            return scores.float().reshape(-1).cpu().numpy()

    def release_memory(self) -> None:
        if self.device.startswith("cuda"):
            self._torch.cuda.empty_cache()

    def close(self) -> None:
        if self._parallel:
            self._parallel.close()

    def _keep_last_layer_exact(self) -> None:
        """Run the last layer in fp32: 8 bits of mantissa give unlike passages the same score."""
        nn = self._torch.nn
        heads = [n for n, m in self.model.named_modules() if type(m) is nn.Linear and m.out_features == 1]
        if heads:
            self.model.set_keep_in_fp32_modules(heads[-1:])

    def _shorten_and_compare(self) -> None:
        """Compute the last layer for [CLS] alone, where that gives what `predict` gave before.

        Raises `LoadFailure` for a model that reads its pairs in another way than this class does:
        with a prompt, or a chat template.
        """
        texts = ["it was said yesterday, and then again", "nothing"]
        expected = self.model.predict(
            [("what was said", text) for text in texts],
            activation_fn=self._torch.nn.Identity(),
            show_progress_bar=False,
        )
        undo = shorten_last_layer(self.model)
        if undo is not None:
            if self._scores_like(texts, expected):
                return
            logger.warning("the model's last layer is not shortened: its scores would differ")
            undo()
        if not self._scores_like(texts, expected):
            raise LoadFailure("no_backend", "the model reads its pairs in another way than a cross-encoder")

    def _scores_like(self, texts: list[str], expected: np.ndarray) -> bool:
        try:
            scores = self.score(self.prepare("what was said", texts, float("inf")))
        except (TypeError, AttributeError, ValueError):  # another release of transformers
            return False
        return np.allclose(scores, expected, atol=_LARGEST_DIFFERENCE, rtol=_LARGEST_DIFFERENCE)
