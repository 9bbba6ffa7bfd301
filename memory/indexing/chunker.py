"""Slices of a text that fit the embedding model, with exact character offsets.

Lengths are the tokenizer's, not an estimate: what a slice carries, and what the limit is held
against, is what tokenising that slice by itself gives.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from memory.embedding.model_text import breakable
from memory.errors import FieldError, TooManyChunks
from memory.indexing.slices import Slice
from memory.indexing.token_starts import TokenStarts
from memory.limits import CHUNK_MAX_CHARS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = 2  # [CLS] and [SEP], or the model's like
_MIN_TOKENS = 32  # below this one odd character could be more than a slice
_OVERLAP_CHARS_SHARE = 8  # the overlap is at most 1/8 of a slice's characters, as of its tokens


def chunk_text(text: str, tokenizer: Tokenizer, *, max_chunks: int | None = None, **limits: int) -> list[Slice]:
    """The slices of one text, as `iter_chunks` gives them. Raises `TooManyChunks` past `max_chunks`."""
    if max_chunks is None:
        return list(iter_chunks(text, tokenizer, **limits))
    return chunk_texts([text], tokenizer, max_chunks=max_chunks, field="text", **limits)[0]


def chunk_texts(
    texts: Sequence[str], tokenizer: Tokenizer, *, max_chunks: int, field: str = "text", **limits: int
) -> list[list[Slice]]:
    """The slices of each text, together at most `max_chunks`; `limits` are those of `iter_chunks`.

    Raises `TooManyChunks` on `field` as soon as there is one too many: texts of more characters than so many
    slices hold are not read at all, others no further than that slice, so refusing takes no longer than taking.
    """
    chars = limits.get("max_chars", CHUNK_MAX_CHARS)
    if sum(-(-len(text) // chars) for text in texts) > max_chunks:
        raise _too_many(field, max_chunks)
    chunked: list[list[Slice]] = []
    left = max_chunks
    for text in texts:
        chunks = list(islice(iter_chunks(text, tokenizer, **limits), left + 1))
        if len(chunks) > left:
            raise _too_many(field, max_chunks)
        left -= len(chunks)
        chunked.append(chunks)
    return chunked


def _too_many(field: str, max_chunks: int) -> TooManyChunks:
    make = "documents make" if field == "documents" else "text makes"
    detail = f"The {make} more than {max_chunks} chunks, which is all that one call may store."
    return TooManyChunks([FieldError(field, TooManyChunks.code, detail)], detail)


def iter_chunks(
    text: str,
    tokenizer: Tokenizer,
    *,
    max_tokens: int = 512,
    overlap_tokens: int = 64,
    max_chars: int = CHUNK_MAX_CHARS,
) -> Iterator[Slice]:
    """Cut `text` into slices that cover it without gaps, in order, reading no further ahead than it must.

    `max_tokens` includes the two special tokens. `tokenizer` is a raw `tokenizers.Tokenizer`
    without truncation and padding; it is only read, so threads may share it. A slice ends at
    the start of a word (the whitespace after a word is its own), and the next one starts up to
    `overlap_tokens` earlier; only a word that does not fit by itself is cut inside. The first
    slice starts at 0, the last ends at `len(text)`, and the same input gives the same slices.
    An empty text has none.

    Every slice has its `tokens`. Raises `ValueError` on limits that leave no room.
    """
    if max_tokens < _MIN_TOKENS or max_chars < 1:
        raise ValueError(f"max_tokens must be at least {_MIN_TOKENS}, max_chars at least 1")
    if not 0 <= overlap_tokens <= max_tokens // 2:
        raise ValueError("overlap_tokens must be at least 0 and at most half of max_tokens")

    slicer = _Slicer(text, tokenizer, max_tokens - SPECIAL_TOKENS, max_chars)
    start = covered = 0
    while covered < len(text):
        end, tokens = slicer.slice_from(start)
        if end <= covered:  # the overlap left no room for the next word: do without it
            end, tokens = slicer.slice_from(start := covered)
        yield Slice(text[start:end], start, end, tokens)
        covered = end
        start = slicer.overlap_start(start, end, overlap_tokens)


class _Slicer:
    """Where tokens and words of one text start, and the slices that follow from it."""

    def __init__(self, text: str, tokenizer: Tokenizer, budget_tokens: int, max_chars: int):
        self.text = text
        self.tokenizer = tokenizer
        self.budget_tokens = budget_tokens
        self.max_chars = max_chars
        self.starts = TokenStarts(text, tokenizer)
        self.token_starts, self.word_starts = self.starts.tokens, self.starts.words
        self.spaced_starts = self.starts.spaced
        self.words_stand_alone = _words_stand_alone(tokenizer)

    def slice_from(self, start: int) -> tuple[int, int]:
        """End and token count of the slice at `start`; the end is always past the start."""
        allowed_tokens = self.budget_tokens
        furthest = min(start + self.max_chars, len(self.text))
        self.starts.read_to(furthest)
        while True:
            end = self._end(start, allowed_tokens, furthest)
            tokens = self._count(start, end)
            if tokens <= self.budget_tokens or end == start + 1:
                return end, tokens
            # A slice tokenised alone can differ from the same words in the whole text: where
            # a word was cut inside, or with tokenizers that join words. Ask for less.
            if allowed_tokens > 1:
                allowed_tokens = max(1, allowed_tokens - (tokens - self.budget_tokens))
            else:
                furthest = start + (end - start) // 2

    def overlap_start(self, start: int, end: int, overlap_tokens: int) -> int:
        """Where the slice after `start`-`end` starts: a word start past `start`, or `end`."""
        first_token = max(bisect_left(self.token_starts, end) - overlap_tokens, 0)
        if first_token >= len(self.token_starts):
            return end
        earliest = max(
            self.token_starts[first_token],
            end - self.max_chars // _OVERLAP_CHARS_SHARE,
            start + 1,
        )
        for starts in (self.spaced_starts, self.word_starts):
            i = bisect_left(starts, earliest)
            if i < len(starts) and starts[i] < end:
                return starts[i]
        return end

    def _end(self, start: int, allowed_tokens: int, furthest: int) -> int:
        first_excluded = bisect_left(self.token_starts, start) + allowed_tokens
        limit = furthest
        if first_excluded < len(self.token_starts):
            limit = max(start + 1, min(limit, self.token_starts[first_excluded]))
        if limit == len(self.text):
            return limit
        # A word after whitespace, unless that leaves the slice less than half full (writing
        # without spaces); else any word; else any token; else wherever the limit falls.
        for starts, at_least in (
            (self.spaced_starts, start + (limit - start) // 2),
            (self.word_starts, start),
            (self.token_starts, start),
        ):
            i = bisect_right(starts, limit) - 1
            if i >= 0 and starts[i] > at_least:
                return starts[i]
        return limit

    def _count(self, start: int, end: int) -> int:
        if self.words_stand_alone and self._at_space(start) and self._at_space(end):
            return bisect_left(self.token_starts, end) - bisect_left(self.token_starts, start)
        model_text, _ = breakable(self.text[start:end])
        # The batch form is the one that skips offsets: a third of the time.
        return len(self.tokenizer.encode_batch_fast([model_text], add_special_tokens=False)[0])

    def _at_space(self, offset: int) -> bool:
        if offset in (0, len(self.text)):
            return True
        i = bisect_left(self.spaced_starts, offset)
        return i < len(self.spaced_starts) and self.spaced_starts[i] == offset


def _words_stand_alone(tokenizer: Tokenizer) -> bool:
    """Whether words separated by whitespace are known to give the same tokens in any company.

    True of BERT's pipeline, where counts can be added up, which halves the time for prose. Of any
    other tokenizer each slice is tokenised to know.
    """
    from tokenizers import models, normalizers, pre_tokenizers

    return (
        isinstance(tokenizer.model, models.WordPiece)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
    )
