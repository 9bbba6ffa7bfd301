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

from memory.errors import ModelUnavailable, Overloaded
from memory.language.sentences import split_sentences
from memory.lexical.terms import terms

SENTENCES_MAX = 3
ANSWER_MAX_CHARS = 1_200
# Further passages add little to three sentences, and each takes some 15 ms to cut.
PASSAGES_READ_MAX = 5
CUT_BUDGET_SECONDS = 0.15
# How much a passage's own score, 0-1, counts beside the share of the question's words that a sentence holds.
PASSAGE_WEIGHT = 0.5

_ROUGH_END = re.compile(r"(?<=[.!?…])\s+|\s*\n\s*")
_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class NumberedPassage:
    """What may be quoted: `n` is its mark, `score` 0-1."""

    n: int
    text: str
    score: float


@dataclass(slots=True)
class _Sentence:
    passage: NumberedPassage
    position: int
    text: str
    words: Counter[str]
    worth: float = 0.0


def extract_answer(question: str, passages: Sequence[NumberedPassage], language: str, *, user: str = "") -> str:
    """Up to SENTENCES_MAX sentences of `passages`, each followed by its mark `[n]`, in the passages' order.

    "" where there is nothing to quote. `language`: whose stop words and stems (memory.lexical.terms); `user`: whose
    turn it takes. Sentences are found with spaCy within CUT_BUDGET_SECONDS; what it has not cut by then is cut at full
    stops and line ends.
    """
    deadline = time.monotonic() + CUT_BUDGET_SECONDS
    sentences = [
        _Sentence(passage, position, text, terms(text, language))
        for passage in passages[:PASSAGES_READ_MAX]
        for position, text in enumerate(_sentences(passage.text, deadline, user))
    ]
    _weigh(sentences, terms(question, language))
    chosen: list[_Sentence] = []
    left_chars = ANSWER_MAX_CHARS
    for sentence in sorted(sentences, key=lambda s: (-s.worth, s.passage.n, s.position)):
        if len(chosen) == SENTENCES_MAX or (chosen and sentence.worth < chosen[0].worth / 2):
            break
        # Chunks overlap, so that two passages may hold the same sentence.
        if len(sentence.text) > left_chars or any(sentence.text == other.text for other in chosen):
            continue
        chosen.append(sentence)
        left_chars -= len(sentence.text)
    chosen.sort(key=lambda s: (s.passage.n, s.position))
    return " ".join(f"{sentence.text} [{sentence.passage.n}]" for sentence in chosen)


def words(text: str) -> list[str]:
    """`text` in pieces of a word with the space before it; joined they are `text` but for trailing space."""
    return _WORD.findall(text)


def _sentences(text: str, deadline: float, user: str) -> list[str]:
    try:
        if time.monotonic() < deadline:
            return [sentence.text for sentence in split_sentences(text, deadline=deadline, user=user)]
    except (Overloaded, ModelUnavailable):
        pass
    return [part for part in map(str.strip, _ROUGH_END.split(text)) if part]


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
        sentence.worth = share + PASSAGE_WEIGHT * sentence.passage.score if share else 0.0
    if not any(sentence.worth for sentence in sentences):
        # No word in common: the best passage begins with what it is about.
        sentences[0].worth = 1.0
