"""The text a model reads: the text as sent, with words no tokenizer can take cut into pieces.

BERT's WordPiece gives up on a word of more than 100 characters and answers one `[UNK]`, so a
million "x" would be one token that says nothing. Nothing else is normalised here: what is
stored and cited is always the text as sent.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

import numpy as np

MAX_WORD_CHARS = 100  # `max_input_chars_per_word` of WordPiece; it counts after NFD
_NFD_MAX_EXPANSION = 4  # the longest canonical decomposition, e.g. U+1F82 (UAX #15)
_ZERO_WIDTH_JOINER = "\u200d"

# What BERT turns into a space. Not `str.isspace`: BERT drops the other separators (VT, FF,
# NEL, FS..US) as control characters, so the words around them are one word.
WHITESPACE = "\t\n\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_IDEOGRAPHS = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
)


def _punctuation() -> str:
    """Characters BERT makes words of their own: all of ASCII's, and Unicode's `P*`."""
    ranges = [range(0x80, 0x3100), range(0xA4D0, 0xAC00), range(0xFE10, 0xFFEF)]
    found = [chr(c) for r in ranges for c in r if unicodedata.category(chr(c))[0] == "P"]
    return "!-/:-@\\[-`{-~" + "".join(found)


# The look-behind keeps the scan linear: a word is tried once, at its first character.
_WORD_CHAR = f"[^{WHITESPACE}{_punctuation()}{_IDEOGRAPHS}]"
# A word of its own wherever it stands: a text may be cut before it.
STANDS_ALONE = re.compile(f"[{_punctuation()}{_IDEOGRAPHS}]")
_LONG_WORD = re.compile(f"(?<!{_WORD_CHAR}){_WORD_CHAR}{{{MAX_WORD_CHARS // _NFD_MAX_EXPANSION + 1},}}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where spaces were put in: maps offsets of the model text back to the text as sent.

    `positions` are ascending offsets in the text as sent; a space stands before each.
    """

    positions: tuple[int, ...] = ()
    _spaces: np.ndarray | None = field(default=None, repr=False, compare=False)

    @classmethod
    def at(cls, positions: list[int]) -> Cuts:
        if not positions:
            return _NO_CUTS
        spaces = np.asarray(positions, dtype=np.int64) + np.arange(len(positions))
        return cls(tuple(positions), spaces)

    def __len__(self) -> int:
        return len(self.positions)

    def to_text(self, offsets: np.ndarray) -> np.ndarray:
        """Offsets in the model text (int64[n]) as offsets in the text as sent (int64[n])."""
        if self._spaces is None:
            return offsets
        return offsets - np.searchsorted(self._spaces, offsets, side="left")


_NO_CUTS = Cuts()


def breakable(text: str) -> tuple[str, Cuts]:
    """The text a model reads, and the map of its offsets back to `text`.

    A word (a run without whitespace, punctuation or ideographs) that is longer than 100
    characters after NFD gets a space before each further piece of at most 100. Each piece
    depends only on the characters from its own start, so a slice of `text` that starts and
    ends at cuts is cut at the same places. Lone surrogates, which no tokenizer takes, are
    read as U+FFFD. Without such words this is one scan and returns `text` itself.
    """
    model_text = text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        model_text = _SURROGATE.sub("\ufffd", text)

    positions: list[int] = []
    for word in _LONG_WORD.finditer(model_text):
        positions.extend(word.start() + cut for cut in _word_cuts(word.group()))
    if not positions:
        return model_text, _NO_CUTS

    edges = [0, *positions, len(text)]
    pieces = (model_text[a:b] for a, b in zip(edges, edges[1:], strict=False))
    return " ".join(pieces), Cuts.at(positions)


def _word_cuts(word: str) -> list[int]:
    """Offsets in `word` at which a new piece of at most 100 characters after NFD starts."""
    if word.isascii():
        return list(range(MAX_WORD_CHARS, len(word), MAX_WORD_CHARS))
    codes = np.frombuffer(word.encode("utf-32-le"), dtype="<u4")
    # Each character is looked up once, however often it comes: a hostile text is one word of a megabyte.
    known, which = np.unique(codes, return_inverse=True)
    chars = [chr(code) for code in known.tolist()]
    ends = np.cumsum(np.array([len(unicodedata.normalize("NFD", char)) for char in chars])[which])
    # A mark stays with its letter and a joined emoji in one piece, where the piece has room.
    is_joiner = codes == ord(_ZERO_WIDTH_JOINER)
    goes_on = np.array([unicodedata.category(char)[0] == "M" for char in chars])[which] | is_joiner
    seams = np.flatnonzero(~(is_joiner[:-1] | goes_on[1:])) + 1

    cuts: list[int] = []
    start = width = 0
    while True:
        end = int(np.searchsorted(ends, width + MAX_WORD_CHARS, side="right"))
        if end == len(word):
            return cuts
        seam = int(np.searchsorted(seams, end, side="right")) - 1
        start = int(seams[seam]) if seam >= 0 and seams[seam] > start else end
        cuts.append(start)
        width = int(ends[start - 1])
