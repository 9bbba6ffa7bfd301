"""Where the tokens and the words of a text start, read as far as somebody asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from memory.embedding.model_text import STANDS_ALONE, WHITESPACE, breakable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SEGMENT_CHARS = 16_384  # text is tokenised in segments: one long call is far slower


class TokenStarts:
    """Ascending offsets in a text, known as far as it was read.

    `tokens` and `words`: of tokens, and of the tokenizer's words; `spaced`: of words after whitespace, or after a
    cut of an over-long word, all known from the start.
    """

    def __init__(self, text: str, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._model_text, self._cuts = breakable(text)
        spaced = _after_whitespace(self._model_text)
        self._edges = iter(_segment_edges(self._model_text, spaced))
        self._read_to = next(self._edges)
        self._text_read_to = 0
        self.tokens: list[int] = []
        self.words: list[int] = []
        self.spaced: list[int] = self._cuts.to_text(spaced).tolist()

    def read_to(self, offset: int) -> None:
        """Know every start before `offset` of the text, and the one at it."""
        while self._text_read_to <= offset and (edge := next(self._edges, None)) is not None:
            self._read_segment(self._read_to, edge)
            self._read_to = edge
            self._text_read_to = int(self._cuts.to_text(np.asarray([edge]))[0])

    def _read_segment(self, start: int, end: int) -> None:
        (encoding,) = self._tokenizer.encode_batch([self._model_text[start:end]], add_special_tokens=False)
        if not encoding.ids:
            return
        starts = np.asarray(encoding.offsets, dtype=np.int64)[:, 0] + start
        starts = np.maximum.accumulate(self._cuts.to_text(starts))
        words = np.asarray([-1 if w is None else w for w in encoding.word_ids])
        last = self.tokens[-1] if self.tokens else 0
        starts = np.maximum(starts, last)
        self.tokens += starts.tolist()
        self.words += starts[np.flatnonzero(np.diff(words, prepend=-2))].tolist()


def _after_whitespace(model_text: str) -> np.ndarray:
    """Offsets (int64[n]) of each character that is not whitespace and follows some."""
    codes = np.frombuffer(model_text.encode("utf-32-le"), dtype="<u4")
    is_space = _SPACE_TABLE[np.minimum(codes, len(_SPACE_TABLE) - 1)]
    return np.flatnonzero(is_space[:-1] & ~is_space[1:]).astype(np.int64) + 1


def _space_table() -> np.ndarray:
    spaces = re.compile(f"[{WHITESPACE}]")
    return np.array([bool(spaces.match(chr(c))) for c in range(0x3002)])


_SPACE_TABLE = _space_table()


def _segment_edges(model_text: str, spaced: np.ndarray) -> Iterator[int]:
    """Offsets from 0 to the length, about every 16 thousand characters, at which every tokenizer may start anew:
    word starts, or where a text has no spaces, characters that are words by themselves."""
    edge = 0
    while edge < len(model_text):
        yield edge
        least = edge + _SEGMENT_CHARS
        i = np.searchsorted(spaced, least)
        edge = int(spaced[i]) if i < len(spaced) else len(model_text)
        if edge > least and (alone := STANDS_ALONE.search(model_text, least, edge)):
            edge = alone.start()
    yield len(model_text)
