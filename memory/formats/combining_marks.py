"""Runs of combining marks kept short, before anything normalises a text.

Normalisation sorts a run of marks in place, which takes time in the square of its length. No language writes more than
a few in a row; UAX #15 (section 13, stream-safe text) allows 30. There a joiner is put in; here the rest is cut, for
this is only what is matched and counted. What is stored and cited stays as it was sent.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

import numpy as np

MARKS_MAX = 30

_CODES = range(0x300, 0x1E94B)  # the first combining mark, and one past the last


def stream_safe(text: str) -> str:
    """`text` without what follows the first MARKS_MAX characters of a run of combining marks. Linear."""
    if text.isascii():
        return text
    # Looking each character up in a table is a twentieth of the work, and hardly a text has so many marks.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if np.count_nonzero(_is_mark()[np.minimum(codes, _CODES.stop)]) <= MARKS_MAX:
        return text
    return _long_run().sub(r"\1", text)


# Both are made when first asked for: it takes a tenth of a second, and most commands read no text.
@cache
def _is_mark() -> np.ndarray:
    """bool by code, to _CODES.stop: whether nothing of what the character comes apart into begins a new run.

    That is, all of it has a combining class other than 0.
    """
    is_mark = np.zeros(_CODES.stop + 1, dtype=bool)
    chars = list(map(chr, _CODES))
    is_mark[_CODES.start : _CODES.stop] = list(map(unicodedata.combining, chars))
    for char in filter(unicodedata.decomposition, chars):
        if not unicodedata.combining(char):
            is_mark[ord(char)] = all(map(unicodedata.combining, unicodedata.normalize("NFKD", char)))
    return is_mark


@cache
def _long_run() -> re.Pattern[str]:
    """MARKS_MAX marks, kept as a group, and those after them."""
    edges = np.flatnonzero(np.diff(_is_mark())).reshape(-1, 2)
    marks = "".join(f"{chr(before + 1)}-{chr(last)}" for before, last in edges)
    return re.compile(f"([{marks}]{{{MARKS_MAX}}})[{marks}]+")
