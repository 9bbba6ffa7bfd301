"""Sentences of a text as exact slices of it.

spaCy's punctuation rules find the ends, which know abbreviations, initials and numbers. What they do not know is
added: line breaks that end a paragraph or an item, and the full stops of CJK.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from memory.errors import Overloaded
from memory.language.pipeline import readable, sentence_pipeline
from memory.language.turns import CHARS_PER_TOKEN

if TYPE_CHECKING:
    from spacy.language import Language

WINDOW_CHARS = 4_000  # what spaCy reads at once
SENTENCE_MAX_CHARS = 1_000  # longer ones (no punctuation at all) are cut at a space
TAIL_CHARS = 64  # how far back from a sentence's end is looked for a quote
WRAPPED_LINE_MIN_CHARS = 50  # a line at least this long may go on in the next one

_ITEM = r"(?:[-*+•‣◦·>|#]|\d{1,3}[.)]\s|\w[)]\s)"
_BREAKS = "\r\n\v\f\u0085\u2028\u2029"
# All the whitespace from a line break on, so that none of it is looked at twice.
_LINE_BREAKS = re.compile(rf"[{_BREAKS}]\s*(?P<item>(?={_ITEM}))?")
# The number of a list's item: its full stop ends nothing.
_ITEM_NUMBER = re.compile(r"^[ \t]*\d{1,3}[.)](?=\s)", re.MULTILINE)
_CJK_END = re.compile(r"[。！？｡][」』”’）》〉\"']*")
_OPENING_QUOTE_LEFT_BEHIND = re.compile(r"(?<=\s)[\"'“‘«(\[]+\s*\Z")
_QUOTED_END = re.compile(r"[?!]['\"”’»]\s*\Z")
_LINE_BREAK = re.compile(f"[{_BREAKS}]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text` is exactly `whole[start:end]`, offsets in characters; no outer whitespace, never empty."""

    text: str
    start: int
    end: int


def split_sentences(text: str, *, deadline: float | None = None, user: str = "") -> list[Sentence]:
    """The sentences of `text` in order; together they hold every character that is not whitespace.

    `deadline` is on the `time.monotonic()` clock; `user` is whose turn it takes. Raises Overloaded past the
    deadline, ModelUnavailable.
    """
    if not text.strip():
        return []
    cjk_starts = (found.end() for found in _CJK_END.finditer(text))
    starts = sorted({0, *_spacy_starts(text, deadline, user), *_line_starts(text, deadline), *cjk_starts})
    slices = _rejoined(text, starts, deadline)
    return [sentence for start, end in slices for sentence in _pieces(text, start, end, deadline)]


def _spacy_starts(text: str, deadline: float | None, user: str) -> Iterator[int]:
    """Where spaCy sees a sentence begin, window by window; a window's last sentence is read again with the next."""
    pipeline = sentence_pipeline()
    start = 0
    while start < len(text):
        end = min(start + WINDOW_CHARS, len(text))
        window = text[start:end]
        tokens = len(window) // CHARS_PER_TOKEN
        found = pipeline.run(partial(_window_starts, window=window), deadline=deadline, user=user, tokens=tokens)
        yield from (start + offset for offset in found)
        if end == len(text):
            return
        # A sentence that begins in the first half is cut: each window is read twice at most.
        start = start + found[-1] if found and found[-1] > WINDOW_CHARS // 2 else _cut(text, start, end)


def _window_starts(nlp: Language, window: str) -> list[int]:
    without_numbers = _ITEM_NUMBER.sub(lambda number: " " * len(number[0]), readable(window))
    return [sentence.start_char for sentence in nlp(without_numbers).sents]


def _line_starts(text: str, deadline: float | None) -> Iterator[int]:
    """Where a line begins that does not go on from the line before it."""
    line = 0
    for found in _LINE_BREAKS.finditer(text):
        _require_time(deadline)
        space = found[0]
        first = 2 if space.startswith("\r\n") else 1
        last = max(map(space.rfind, _BREAKS)) + 1
        is_short = found.start() - line < WRAPPED_LINE_MIN_CHARS
        is_item = found["item"] is not None and not space[last:].strip(" \t")
        line = found.end() if is_item else found.start() + last
        if is_short or is_item or last > first:
            yield line


def _rejoined(text: str, starts: list[int], deadline: float | None) -> Iterator[tuple[int, int]]:
    """Slices from start to start; what belongs to the sentence before it, such as a closing quote, goes back to it."""
    begin = starts[0]
    for index, at in enumerate(starts[1:], 1):
        _require_time(deadline)
        tail = max(begin, at - TAIL_CHARS)
        left_behind = _OPENING_QUOTE_LEFT_BEHIND.search(text, tail, at)
        if left_behind and left_behind.start() > begin and not text[at : at + 1].isspace():
            at = left_behind.start()
        end = starts[index + 1] if index + 1 < len(starts) else len(text)
        before, after = text[tail:at], text[at:end]
        if not _LINE_BREAK.search(before[len(before.rstrip()) :]):
            is_said = after[:1].islower() and _QUOTED_END.search(before)
            if is_said or not any(map(str.isalnum, after)):
                continue
        yield begin, at
        begin = at
    yield begin, len(text)


def _pieces(text: str, start: int, end: int, deadline: float | None) -> Iterator[Sentence]:
    """The slice without its outer whitespace, in pieces of at most SENTENCE_MAX_CHARS."""
    while True:
        _require_time(deadline)
        part = text[start:end]
        start += len(part) - len(part.lstrip())
        end = start + len(part.strip())
        if start >= end:
            return
        stop = end if end - start <= SENTENCE_MAX_CHARS else _cut(text, start, start + SENTENCE_MAX_CHARS)
        piece = text[start:stop].rstrip()
        yield Sentence(piece, start, start + len(piece))
        start = stop


def _require_time(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise Overloaded(retry_after_seconds=2)


def _cut(text: str, start: int, end: int) -> int:
    """The end of the last word that ends in the later half of start..end; `end` where none does."""
    half = start + (end - start) // 2
    for at in range(end, half, -1):
        if text[at - 1].isspace():
            return at
    return end
