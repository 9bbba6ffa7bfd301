"""From texts to pairs as a cross-encoder reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reranker.backends import Pair
from reranker.faults import TokenizerFault
from reranker.results import RerankSkipped

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Pairs tokenised between two looks at the clock, and how much of a text can matter: a token is
# about 4.5 characters of English. Together they bound what a slow text can take past a deadline.
_SLICE_PAIRS = 8
_MOST_CHARACTERS_PER_TOKEN = 10


def numbers_of(pair: Pair, inputs: Sequence[str]) -> tuple[Sequence[int], ...]:
    """What a graph reads of a pair, in the order of the names of its `inputs`."""
    read = {"input_ids": pair.content.ids, "token_type_ids": pair.content.type_ids}
    return tuple(read[name] for name in inputs)


class PairTokenizer:
    """Pairs of `max_tokens` at most, special ones included; the longer of the two texts is cut first.

    `tokenizer` is a copy that nobody else changes, which is what makes it safe to share.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int):
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        # "[SEP]" in what a user wrote is seven characters, not the end of the passage.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first")
        self._most_characters = max_tokens * _MOST_CHARACTERS_PER_TOKEN

    def prepare(self, query: str, texts: Sequence[str], deadline: float) -> list[Pair]:
        """As `Backend.prepare`."""
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
