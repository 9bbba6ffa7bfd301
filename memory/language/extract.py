"""Sentences that say what a set of chunks says, each with its citation.

Embedding every sentence of 200 chunks would take a CPU some 20 seconds. So the chunks are ranked first, by the vectors
that are stored with them, and only the most central ones' sentences are embedded: a seventh of the work for a choice
that is nearly as close to all the sentences (deploy/bench/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from memory.indexing.slices import join_slices
from memory.language.centrality import centrality, choose, similarities
from memory.language.sentences import split_sentences
from memory.retrieval.chunks import StoredChunk
from memory.retrieval.citations import Citation

CENTRAL_CHUNKS = 24
SENTENCE_MIN_WORDS, SENTENCE_MIN_CHARS = 4, 20  # shorter by both: a heading, a greeting


@dataclass(frozen=True)
class CitedSentence:
    """`citation.quote` is the sentence as it stands in its document; `text` the same on one line."""

    citation: Citation

    @property
    def text(self) -> str:
        return " ".join(self.citation.quote.split())


def central_chunks(units: np.ndarray, count: int = CENTRAL_CHUNKS) -> list[int]:
    """Ascending indices of the `count` most central chunks. `units`: their vectors, float[n, d], of length 1."""
    if len(units) <= count:
        return list(range(len(units)))
    similar = similarities(units)
    return sorted(choose(centrality(similar), similar, count))


def cited_sentences(
    chunks: Sequence[StoredChunk], *, deadline: float | None = None, user: str = ""
) -> list[CitedSentence]:
    """The sentences of opened chunks, a document's chunks in order.

    A sentence that chunks share, or that is repeated, comes once. One that is cut off where the chunks that were read
    begin or end is left out, unless there is no other.

    A sentence that is in two overlapping chunks, or is repeated, comes once; one that a chunk's edge cuts does not
    come. Headings and the like are left out while there is anything else. `deadline` is on the `time.monotonic()`
    clock; `user`: whose turn it takes. Raises Overloaded past the deadline, ModelUnavailable.
    """
    seen: set[str] = set()
    found: list[CitedSentence] = []
    for _, of_document in groupby(chunks, key=lambda chunk: chunk.doc_id):
        for run in _runs(of_document):
            for sentence in _run_sentences(run, deadline, user):
                folded = sentence.text.casefold()
                if folded not in seen:
                    seen.add(folded)
                    found.append(sentence)
    return [sentence for sentence in found if _says_something(sentence.text)] or found


def central_sentences(units: np.ndarray, count: int, question: np.ndarray | None = None) -> list[int]:
    """Ascending indices of at most `count` central sentences, near `question` where there is one.

    `units`: the sentences' vectors, float[n, d], of length 1; `question`: float[d], of length 1.
    """
    similar = similarities(units)
    prior = None if question is None else np.clip(units @ question, 0.0, None) ** 2
    return sorted(choose(centrality(similar, prior), similar, count))


def _runs(chunks: Iterator[StoredChunk]) -> Iterator[list[StoredChunk]]:
    """Chunks of one document that follow each other without a gap."""
    run: list[StoredChunk] = []
    for chunk in chunks:
        if run and chunk.start > run[-1].end:
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run


def _run_sentences(run: list[StoredChunk], deadline: float | None, user: str) -> Iterator[CitedSentence]:
    first, last = run[0], run[-1]
    text = join_slices((chunk.start - first.start, chunk.text) for chunk in run)
    sentences = split_sentences(text, deadline=deadline, user=user)
    # The document goes on beyond the run, and its sentences with it.
    whole = sentences[first.start > 0 : len(sentences) - (last.end < last.document_chars)] or sentences
    for sentence in whole:
        start, end = first.start + sentence.start, first.start + sentence.end
        home = next((chunk for chunk in run if chunk.start <= start and end <= chunk.end), None)
        home = home or next(chunk for chunk in run if chunk.start <= start < chunk.end)
        yield CitedSentence(Citation(home.doc_id, home.chunk_index, start, end, sentence.text))


def _says_something(text: str) -> bool:
    return len(text.split()) >= SENTENCE_MIN_WORDS or len(text) >= SENTENCE_MIN_CHARS
