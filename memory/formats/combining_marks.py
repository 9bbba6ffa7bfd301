"""Runs of combining marks kept short, before anything normalises a text.

Normalisation sorts a run of marks in place, which takes time in the square of its length. No language writes more than
a few in a row; UAX #15 (section 13, stream-safe text) allows 30. There a joiner is put in; here the rest is cut, for
this is only what is matched and counted. What is stored and cited stays as it was sent.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

MARKS_MAX = 30

_CODES = range(0x300, 0x1E94B)  # the first combining mark, and one past the last


def stream_safe(text: str) -> str:
    """`text` without what follows the first MARKS_MAX characters of a run of combining marks. Linear."""
    if text.isascii():
        return text
    # Looking each character up in a table is a twentieth of the work, and hardly a text has so many marks.
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    if np.count_nonzero(_IS_MARK[np.minimum(codes, _CODES.stop)]) <= MARKS_MAX:
        return text
    return _LONG_RUN.sub(r"\1", text)


def _is_mark(char: str) -> bool:
    """Whether nothing of what `char` comes apart into begins a new run (has combining class 0)."""
    if unicodedata.combining(char):
        return True
    apart = unicodedata.decomposition(char) and unicodedata.normalize("NFKD", char)
    return bool(apart) and all(map(unicodedata.combining, apart))


_IS_MARK = np.zeros(_CODES.stop + 1, dtype=bool)
_IS_MARK[_CODES.start : _CODES.stop] = [_is_mark(chr(code)) for code in _CODES]


def _marks() -> str:
    """All of them, as ranges of a character class."""
    edges = np.flatnonzero(np.diff(_IS_MARK)).reshape(-1, 2)
    return "".join(f"{chr(before + 1)}-{chr(last)}" for before, last in edges)


_LONG_RUN = re.compile(f"([{_marks()}]{{{MARKS_MAX}}})[{_marks()}]+")
