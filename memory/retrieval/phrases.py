"""Quoted phrases: what a question puts in quotation marks, an answer should hold word for word."""

from __future__ import annotations

import re
import unicodedata
from itertools import islice

from memory.formats.combining_marks import stream_safe

PHRASES_MAX = 8  # a question that quotes more is matched by the first ones

_QUOTED = re.compile(r'"([^"]*)"|“([^“”]*)”|„([^„“”]*)[“”]|«([^«»]*)»')


def quoted_phrases(query: str) -> list[str]:
    """The first PHRASES_MAX different phrases in double quotation marks, folded, in order; empty ones do not count."""
    found = dict.fromkeys(folded("".join(match)) for match in _QUOTED.findall(query))
    return list(islice(filter(None, found), PHRASES_MAX))


def holds_phrases(text: str, phrases: list[str]) -> bool:
    """Whether `text` holds each of `phrases` (folded), whatever its case and white space."""
    inside = folded(text) if phrases else ""
    return all(phrase in inside for phrase in phrases)


def folded(text: str) -> str:
    """NFKC, case folded, every stretch of white space one space, none at the ends; long runs of marks cut before."""
    return " ".join(unicodedata.normalize("NFKC", stream_safe(text)).casefold().split())
