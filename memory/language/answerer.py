"""The built-in answerer: the sentences of the found passages that answer best, word for word, each with its mark.

It writes nothing of its own, so it needs no model and cannot be wrong about what a passage says. Sentences are
compared by words, not by vectors: on a busy machine of 2 cores the 84 sentences of three passages took 1.5 s to embed
against 70 ms to cut and compare (measured), and the passages were found by vectors already.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from memory.errors import ModelUnavailable, Overloaded
from memory.language.prose import Prose
from memory.language.sentences import split_sentences
from memory.lexical.terms import terms

SENTENCES_MAX = 3
ANSWER_MAX_CHARS = 1_200
# Further passages add little to three sentences, and each takes some 15 ms to cut.
PASSAGES_READ_MAX = 5
CUT_BUDGET_SECONDS = 0.15
# How much a passage's own score, 0-1, counts beside the share of the question's words that a sentence holds.
PASSAGE_WEIGHT = 0.5
# Of what stands beside a passage so much is read, next to it; its sentences count so much of what the passage's own do.
BESIDE_MAX_CHARS = 400
BESIDE_WEIGHT = 0.5

_ROUGH_PART = re.compile(r"\S(?:[^\n]*?[.!?…](?=\s)|[^\n]*)")
_ASKS = re.compile(r"[?？][\"'”’»)]*$")
_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class NumberedPassage:
    """What may be quoted: `n` is its mark, `score` 0-1, `before` and `after` are the texts beside it, cited with it."""

    n: int
    text: str
    score: float
    before: str = ""
    after: str = ""


@dataclass(slots=True)
class _Sentence:
    passage: NumberedPassage
    position: int
    text: str
    words: Counter[str]
    weight: float = 1.0
    worth: float = 0.0


def extract_answer(question: str, passages: Sequence[NumberedPassage], language: str, *, user: str = "") -> str:
    """Up to SENTENCES_MAX sentences of `passages`, each followed by its mark `[n]`, in the passages' order.

    Sentences that stand beside a passage may be among them, under its mark. A sentence that asks brings the next one
    along, which may answer it. "" where there is nothing to quote: headings, tables of contents and code are no
    sentences. `language`: whose stop words and stems (memory.lexical.terms); `user`: whose
    turn it takes. Sentences are found with spaCy within CUT_BUDGET_SECONDS; what it has not cut by then is cut at full
    stops and line ends.
    """
    deadline = time.monotonic() + CUT_BUDGET_SECONDS
    sentences = [
        _Sentence(passage, position, text, terms(text, language), weight)
        for passage in passages[:PASSAGES_READ_MAX]
        for position, (text, weight) in enumerate(_around(passage, deadline, user))
    ]
    _weigh(sentences, terms(question, language))
    chosen = _chosen(sentences)
    chosen.sort(key=lambda s: (s.passage.n, s.position))
    return " ".join(f"{sentence.text} [{sentence.passage.n}]" for sentence in chosen)


def _chosen(sentences: list[_Sentence]) -> list[_Sentence]:
    """The best of `sentences`, which are in order, in no order."""
    next_one = {
        id(sentence): following
        for sentence, following in pairwise(sentences)
        if following.passage.n == sentence.passage.n and _ASKS.search(sentence.text)
    }
    chosen: list[_Sentence] = []
    left_chars = ANSWER_MAX_CHARS
    for sentence in sorted(sentences, key=lambda s: (-s.worth, s.passage.n, s.position)):
        if len(chosen) >= SENTENCES_MAX or (chosen and sentence.worth < chosen[0].worth / 2):
            break
        for each in (sentence, next_one.get(id(sentence))):
            # Chunks overlap, so that two passages may hold the same sentence.
            if each is None or len(each.text) > left_chars or any(each.text == other.text for other in chosen):
                continue
            chosen.append(each)
            left_chars -= len(each.text)
    return chosen


def words(text: str) -> list[str]:
    """`text` in pieces of a word with the space before it; joined they are `text` but for trailing space."""
    return _WORD.findall(text)


def _around(passage: NumberedPassage, deadline: float, user: str) -> list[tuple[str, float]]:
    """The sentences before, in and after a passage, in order, each with its weight."""
    own = [(text, 1.0) for text in _sentences(passage.text, deadline, user)]
    before = _sentences(passage.before[-BESIDE_MAX_CHARS:], deadline, user)
    after = _sentences(passage.after[:BESIDE_MAX_CHARS], deadline, user)
    # What was cut begins, or ends, within a sentence.
    if len(passage.before) > BESIDE_MAX_CHARS:
        before = before[1:]
    if len(passage.after) > BESIDE_MAX_CHARS:
        after = after[:-1]
    return [*((text, BESIDE_WEIGHT) for text in before), *own, *((text, BESIDE_WEIGHT) for text in after)]


def _sentences(text: str, deadline: float, user: str) -> list[str]:
    """The sentences of `text` that are prose."""
    prose = Prose(text)
    try:
        if time.monotonic() < deadline:
            found = split_sentences(text, deadline=deadline, user=user)
            return [sentence.text for sentence in found if prose.holds(sentence.start, sentence.end)]
    except (Overloaded, ModelUnavailable):
        pass
    parts = _ROUGH_PART.finditer(text)
    return [part[0].rstrip() for part in parts if prose.holds(part.start(), part.start() + len(part[0].rstrip()))]


def _weigh(sentences: list[_Sentence], asked: Counter[str]) -> None:
    """The share of the question's words that each holds, rare ones counting more, and its passage's score.

    Weights are BM25's inverse document frequency with these sentences as the documents.
    """
    if not sentences:
        return
    holding = Counter(word for sentence in sentences for word in asked.keys() & sentence.words.keys())
    weights = {word: math.log(1 + (len(sentences) - count + 0.5) / (count + 0.5)) for word, count in holding.items()}
    whole = sum(weights.values()) or 1.0
    for sentence in sentences:
        share = sum(weights[word] for word in asked.keys() & sentence.words.keys()) / whole
        sentence.worth = sentence.weight * (share + PASSAGE_WEIGHT * sentence.passage.score) if share else 0.0
    if not any(sentence.worth for sentence in sentences):
        # No word in common: the best passage begins with what it is about.
        next((sentence for sentence in sentences if sentence.weight == 1.0), sentences[0]).worth = 1.0
