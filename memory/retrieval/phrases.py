"""Quoted phrases: what a question puts in quotation marks, an answer should hold word for word."""

from __future__ import annotations

import re
import unicodedata

_QUOTED = re.compile(r'"([^"]*)"|“([^“”]*)”|„([^„“”]*)[“”]|«([^«»]*)»')


def quoted_phrases(query: str) -> list[str]:
    """The phrases that `query` puts in double quotation marks, folded, in order; empty ones do not count."""
    found = (folded("".join(match)) for match in _QUOTED.findall(query))
    return [phrase for phrase in found if phrase]


def holds_phrases(text: str, phrases: list[str]) -> bool:
    """Whether `text` holds each of `phrases` (folded), whatever its case and white space."""
    inside = folded(text) if phrases else ""
    return all(phrase in inside for phrase in phrases)


def folded(text: str) -> str:
    """NFKC, case folded, every stretch of white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
