"""The overlapping slices of a document's text. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slice:
    """What becomes one chunk when it is sealed: `text` is exactly the document's characters `start` to `end`.

    `tokens` counts it for the embedding model, without special tokens; None where nobody has.
    """

    text: str
    start: int
    end: int
    tokens: int | None = None


def join_slices(slices: Iterable[tuple[int, str]]) -> str:
    """The text whose characters from `start` on are each slice's `text`, slices in order of their start.

    Raises ValueError for a gap.
    """
    joined: list[str] = []
    length = 0
    for start, text in slices:
        if start > length:
            raise ValueError(f"characters {length} to {start} are in no slice")
        joined.append(text[length - start :])
        length = max(length, start + len(text))
    return "".join(joined)
