"""What POST /memory/summarize answers."""

from __future__ import annotations

from typing import Any

from memory import limits as conf
from memory.api.responses.body import About, ListOf, Member, itself
from memory.api.responses.citation import CITATION
from memory.api.shapes import array, boolean, doc_id, integer, or_null, string, took_ms
from memory.language.extract import CitedSentence
from memory.services.summary import Summary

# None but those that this summary went through.
_STAGES = ("read", "rank", "open", "split", "embed", "llm", "store")

SENTENCE = About(CitedSentence).part(
    "One sentence of the memory.",
    Member("text", string()),
    Member("citation", CITATION),
)
COVERS = About(Summary).part(
    "What was considered.",
    Member("documents", integer(), lambda summary: summary.covers_documents),
    Member("chunks", integer(), lambda summary: summary.covers_chunks),
)
SUMMARY_ANSWER = About(Summary).body(
    "MemorySummaryAnswer",
    "A summary. It is empty, which is no error, where a source or a question has nothing to summarise.",
    Member("summary", string("The summary."), lambda summary: summary.text),
    Member(
        "sentences",
        ListOf(SENTENCE, "What it is made of, oldest document first.", maxItems=conf.SUMMARY_SENTENCES_MAX),
    ),
    Member("covers", COVERS, itself),
    Member("backend", string("`extractive`, or `llm:` and the language model's name.", pattern="^(extractive$|llm:)")),
    Member("doc_id", or_null(doc_id("The document that the summary is stored as; null where it is not."))),
    Member("stored", boolean(), lambda summary: summary.doc_id is not None),
    Member("degraded", array(string(), "What it had to do without, such as the language model or room (`quota`).")),
    Member("took_ms", took_ms(*_STAGES, "total", optional=_STAGES)),
)


def summary(made: Summary) -> dict[str, Any]:
    """A summary with its cited sentences."""
    return SUMMARY_ANSWER.render(made)
