"""BM25 over blind terms: a question's terms, and what a chunk scores by how often they occur in it. Pure.

As in Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with
idf = ln(1 + (N - df + 0.5) / (df + 0.5)), which is never negative:

    score(chunk) = sum over query terms of qtf * idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean))

N, df and the mean length are counted from the user's live chunks of one space when a search runs (`lookup.py`),
filters or not. Each term's impact, its part of the sum, is rounded to 2^-30 before it is added: such sums are exact in
any order, so equal chunks score equally to the last bit, however and wherever they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memory.isolation.connection import array
from memory.lexical.terms import Blinder, terms
from memory.sealing.user_keys import Purpose, SearchKey

K1 = 1.2
B = 0.75
# The part of the divisor that no length changes.
FLOOR = K1 * (1 - B)
UNIT = 2.0**30
BLOCK_MASK = 255
# Of a question with more distinct terms than this only the first so many count, which bounds what a search costs.
QUERY_TERMS_MAX = 128


@dataclass(frozen=True)
class LexicalQuery:
    """A question's blind terms with how often each occurs."""

    ids: tuple[int, ...]
    counts: tuple[int, ...]

    def params(self) -> dict:
        """The named parameters of a lookup's statements."""
        return {"terms": array(self.ids), "blocks": array(term & BLOCK_MASK for term in self.ids)}


def lexical_query(key: SearchKey, text: str, language: str) -> LexicalQuery:
    """`text`'s terms under the user's search key; without ids where it has none (all stop words, say)."""
    blinder = Blinder(key.subkey(Purpose.WORDS))
    counts: dict[int, int] = {}
    for term, count in list(terms(text, language).items())[:QUERY_TERMS_MAX]:
        counts[blinder.id(term)] = counts.get(blinder.id(term), 0) + count
    return LexicalQuery(tuple(counts), tuple(counts.values()))


@dataclass(frozen=True)
class Weights:
    """What BM25 needs of the question and of all chunks together.

    `idf`: float64[t], of each of the question's t terms; `terms`: float64[t], what an occurrence weighs before it
    saturates; `length_norm`: K1 * B by the mean length, 0 where nothing has a length.
    """

    idf: np.ndarray
    terms: np.ndarray
    length_norm: float

    @classmethod
    def of(cls, counts: Sequence[int], frequencies: Sequence[int], chunks: int, length: int) -> Weights:
        """`counts`: how often each term occurs in the question; `frequencies`: in how many of the `chunks`, which have
        `length` terms together.
        """
        # math.log() and not NumPy's: what a processor's vector unit rounds otherwise would move scores.
        idf = [math.log(1 + (chunks - df + 0.5) / (df + 0.5)) for df in frequencies]
        weights = [(K1 + 1) * count * of_term for count, of_term in zip(counts, idf, strict=True)]
        return cls(np.array(idf), np.array(weights), K1 * B * chunks / length if length else 0.0)


def impacts(weights: np.ndarray, frequencies: np.ndarray, lengths: np.ndarray, length_norm: float) -> np.ndarray:
    """What occurrences add to a score, in units of 2^-30, whole numbers in float64; arrays are broadcast."""
    units: np.ndarray = np.rint(weights * frequencies / (frequencies + FLOOR + length_norm * lengths) * UNIT)
    return units


def scores(weights: np.ndarray, frequencies: np.ndarray, lengths: np.ndarray, length_norm: float) -> np.ndarray:
    """float64[n]: what n chunks score, of whose `lengths`, [n], the t terms have `frequencies`, [n, t]."""
    units: np.ndarray = impacts(weights, frequencies, lengths[:, None], length_norm).sum(axis=1) / UNIT
    return units
