"""Citations: where a passage stands in the document as it was sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Citation:
    """`quote` is exactly `document[start:end]`, offsets in characters of the text as sent."""

    doc_id: str
    chunk_index: int
    start: int
    end: int
    quote: str


def cite(doc_id: str, chunk_index: int, start: int, end: int, text: str) -> Citation:
    """The citation of a whole chunk, whose opened text is `text`.

    Raises `ValueError` when the text cannot be the slice `start`-`end`: a citation that points
    elsewhere is worse than none.
    """
    if not 0 <= start < end or end - start != len(text):
        raise ValueError("the chunk's text does not have the length of its slice")
    return Citation(doc_id, chunk_index, start, end, text)
