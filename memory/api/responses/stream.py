"""What the events of POST /stream carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memory import limits as conf
from memory.api.fields import rfc3339
from memory.api.responses.body import About, ListOf, Member, itself
from memory.api.responses.citation import beside, cited
from memory.api.shapes import (
    any_names,
    array,
    doc_id,
    integer,
    moment,
    number,
    or_null,
    score,
    source,
    string,
    thread_id,
    uuid,
)
from memory.retrieval.candidate import Candidate
from memory.retrieval.citations import Citation
from memory.services.query import MemoryAnswer
from memory.services.stream import Done


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A passage and its number, from 1 as the answer's marks `[n]` are."""

    n: int
    candidate: Candidate
    citation: Citation


@dataclass(frozen=True, slots=True)
class _Timed:
    """The end of a stream, and when it came; milliseconds since the request was read."""

    done: Done
    ttfv_ms: float | None
    total_ms: float


PASSAGE = About(_Numbered).part(
    "One passage, numbered as the answer's marks `[n]` are.",
    Member("n", integer("Its number, from 1.", minimum=1)),
    Member("chunk_id", uuid(), lambda passage: str(passage.candidate.chunk_id)),
    Member("doc_id", doc_id(), lambda passage: passage.citation.doc_id),
    Member("chunk_index", integer("Its number in the document, from 0."), lambda passage: passage.citation.chunk_index),
    Member(
        "start",
        integer("Its first character in the document's text, from 0."),
        lambda passage: passage.citation.start,
    ),
    Member("end", integer("The character after its last."), lambda passage: passage.citation.end),
    Member("quote", string("The passage, exactly as in the document."), lambda passage: passage.citation.quote),
    Member("score", score("As in a query's results."), lambda passage: passage.candidate.score),
    Member("source", source(), lambda passage: passage.candidate.source),
    Member("thread_id", thread_id(), lambda passage: passage.candidate.thread_id),
    Member(
        "created_at",
        moment("When the document came to be."),
        lambda passage: rfc3339(passage.candidate.created_at),
    ),
    beside(
        "before", "What stands before it, which the answer may quote under its number.", lambda p: p.candidate.before
    ),
    beside("after", "What stands after it, likewise.", lambda passage: passage.candidate.after),
)
CITATIONS = About(MemoryAnswer).body(
    "StreamCitations",
    "`event: citations`: what the answer is made from; empty without memory.",
    Member(
        "citations",
        ListOf(PASSAGE, maxItems=conf.TOP_K_MAX),
        lambda found: [_Numbered(n, candidate, cited(candidate)) for n, candidate in enumerate(found.results, 1)],
    ),
    Member("degraded", array(string(), "As in a query's answer.")),
    Member(
        "took_ms",
        any_names("Milliseconds that finding them took, by stage; empty without memory.", number(minimum=0)),
    ),
)
TOKEN = About(str).body(
    "StreamToken", "`event: token`.", Member("delta", string("The next piece of the answer.", minLength=1), itself)
)
TOOK_MS = About(_Timed).part(
    "Milliseconds since the request was read.",
    Member(
        "ttfv",
        or_null(number("Until the first piece.", minimum=0)),
        lambda timed: None if timed.ttfv_ms is None else round(timed.ttfv_ms, 3),
    ),
    Member("total", number(minimum=0), lambda timed: round(timed.total_ms, 3)),
)
DONE = About(_Timed).body(
    "StreamDone",
    "`event: done`.",
    Member(
        "finish_reason",
        string("Why the answer ended.", enum=["stop", "length", "content_filter"]),
        lambda timed: timed.done.finish_reason,
    ),
    Member(
        "usage",
        any_names("Tokens as the model counts them; the built-in answerer counts its pieces.", integer()),
        lambda timed: timed.done.usage,
    ),
    Member("degraded", array(string(), "What the answer had to do without."), lambda timed: timed.done.degraded),
    Member("took_ms", TOOK_MS, itself),
)


def citations(found: MemoryAnswer | None) -> dict[str, Any]:
    """`event: citations`; empty without memory."""
    return CITATIONS.render(found or _nothing_found())


def delta(text: str) -> dict[str, Any]:
    """`event: token`."""
    return TOKEN.render(text)


def done(done: Done, *, ttfv_ms: float | None, total_ms: float) -> dict[str, Any]:
    """`event: done`; times in milliseconds since the request was read, `ttfv` that of the first delta."""
    return DONE.render(_Timed(done, ttfv_ms, total_ms))


def _nothing_found() -> MemoryAnswer:
    return MemoryAnswer(
        [], relevant=False, candidates=0, reranked=False, rerank={}, variant="", degraded=[], took_ms={}
    )
