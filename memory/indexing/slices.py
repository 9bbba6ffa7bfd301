"""A document's text from its overlapping slices. Pure."""

from __future__ import annotations

from collections.abc import Iterable


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
