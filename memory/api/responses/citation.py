"""Where a passage stands, in every answer that cites."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from memory.api.fields import rfc3339
from memory.api.responses.body import About, ListOf, Member
from memory.api.shapes import doc_id, integer, moment, string, uuid
from memory.limits import SURROUNDINGS_MAX
from memory.retrieval.candidate import Candidate, Neighbour
from memory.retrieval.citations import Citation, cite

T = TypeVar("T")

CITATION = About(Citation).body(
    "Citation",
    "Where a passage stands: `quote` is exactly the characters `start` to `end` of the text as it was sent.",
    Member("doc_id", doc_id()),
    Member("chunk_index", integer("The chunk's number in the document, from 0.")),
    Member("start", integer("The first character, from 0.")),
    Member("end", integer("The character after the last.")),
    Member("quote", string("The passage itself.")),
)


def cited(candidate: Candidate | Neighbour) -> Citation:
    """The citation of an opened candidate. Raises ValueError where its text cannot be what it cites."""
    return cite(candidate.doc_id, candidate.chunk_index, candidate.start, candidate.end, candidate.text)


BESIDE = About(Neighbour).body(
    "MemoryNeighbour",
    "A passage that stands beside a result.",
    Member("chunk_id", uuid(), lambda neighbour: str(neighbour.chunk_id)),
    Member("text", string("The passage, exactly as in the document.")),
    Member("created_at", moment("When the document came to be."), lambda neighbour: rfc3339(neighbour.created_at)),
    Member("citation", CITATION, cited),
)


def beside(name: str, description: str, value: Callable[[T], list[Neighbour] | None] | None = None) -> Member[T]:
    """`before` or `after` of a result; left out where surroundings were not asked for."""
    return Member(name, ListOf(BESIDE, description, maxItems=SURROUNDINGS_MAX), value, unless=None)
