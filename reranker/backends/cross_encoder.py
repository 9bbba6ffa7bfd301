"""A cross-encoder: reads query and passage together and says how well one answers the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from reranker.backends import Pair
from reranker.backends.first_token import shorten_last_layer
from reranker.backends.parallel_passes import ParallelPasses, cpu_threads
from reranker.config import CPU_BATCH_TOKENS, GPU_BATCH_TOKENS, RerankConfig
from reranker.faults import LoadFailure, TokenizerFault
from reranker.loader import LoadedModel, load_cross_encoder
from reranker.results import RerankSkipped

logger = logging.getLogger(__name__)

# Pairs tokenised between two looks at the clock, and how much of a text can matter: a token is
# about 4.5 characters of English. Together they bound what a slow text can take past a deadline.
_SLICE_PAIRS = 8
_MOST_CHARACTERS_PER_TOKEN = 10
# bf16 scores of the same pair differ in the last place between batch shapes.
_LARGEST_DIFFERENCE = 0.05


class CrossEncoderBackend:
    """Scores are logits.

    Pairs are tokenised in their callers' threads and padded by the owner, who thus spends its time
    in the model. The tokenizer is a copy that nobody changes after it is
    made, which is what makes it safe to share.
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
        self._tokenizer = Tokenizer.from_str(of_model.backend_tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens, strategy="longest_first")
        # "[SEP]" in what a user wrote is seven characters, not the end of the passage.
        self._tokenizer.encode_special_tokens = True
        self._pad_id = of_model.pad_token_id or 0
        self._with_types = "token_type_ids" in of_model.model_input_names
        self._most_characters = self.max_tokens * _MOST_CHARACTERS_PER_TOKEN
        if loaded.dtype in ("bfloat16", "float16"):
            self._keep_last_layer_exact()
        self._parallel: ParallelPasses | None = None
        self._shorten_and_compare()
        if loaded.device == "cpu" and parallel_passes != 1:
            self._parallel = ParallelPasses(parallel_passes or cpu_threads(), torch.set_num_threads)

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        query = query[: self._most_characters]
        pairs: list[Pair] = []
        for start in range(0, len(texts), _SLICE_PAIRS):
            if time.monotonic() >= deadline:
                raise RerankSkipped("deadline")
            portion = [(query, text[: self._most_characters]) for text in texts[start : start + _SLICE_PAIRS]]
            try:
                # The fast form leaves out the offsets, which nobody reads, and a quarter of the time.
                encodings = self._tokenizer.encode_batch_fast(portion)
            except Exception as error:
                # Without the cause: a tokenizer's message can quote its input.
                raise TokenizerFault(type(error).__name__) from None
            pairs += [Pair(len(encoding.ids), encoding) for encoding in encodings]
        return pairs

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


def load_cross_encoder_backend(config: RerankConfig) -> CrossEncoderBackend:
    """Load the configured model; raises `LoadFailure`, and whatever torch raises."""
    return CrossEncoderBackend(
        load_cross_encoder(config), config.max_tokens, config.batch_tokens, config.parallel_passes
    )
