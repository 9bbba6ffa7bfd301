"""Where a passage stands, in every answer that cites."""

from __future__ import annotations

from memory.api.responses.body import About, Member
from memory.api.shapes import doc_id, integer, string
from memory.retrieval.candidate import Candidate
from memory.retrieval.citations import Citation, cite

CITATION = About(Citation).body(
    "Citation",
    "Where a passage stands: `quote` is exactly the characters `start` to `end` of the text as it was sent.",
    Member("doc_id", doc_id()),
    Member("chunk_index", integer("The chunk's number in the document, from 0.")),
    Member("start", integer("The first character, from 0.")),
    Member("end", integer("The character after the last.")),
    Member("quote", string("The passage itself.")),
)


def cited(candidate: Candidate) -> Citation:
    """The citation of an opened candidate. Raises ValueError where its text cannot be what it cites."""
    return cite(candidate.doc_id, candidate.chunk_index, candidate.start, candidate.end, candidate.text)
