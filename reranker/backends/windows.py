"""The short stretch of a passage that has most of the query's words in it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

# A word; Chinese, Japanese and Korean have no spaces, so there each character is one.
_IDEOGRAPHS = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")
# WordPiece keeps common words whole and cuts others into pieces of about this many letters.
_LETTERS_PER_TOKEN = 6


def estimated_tokens(text: str) -> int:
    """About how many WordPiece tokens `text` is, without asking a tokenizer."""
    return sum(_cost(match.group()) for match in _WORD.finditer(text))


def best_windows(query: str, texts: Sequence[str], window_tokens: int) -> list[str]:
    """For each text, the stretch of about `window_tokens` with the rarest words of the query.

    A window's worth is the sum of log(1 + n / df) over the distinct words it shares with the
    query; df is how many of the n texts have the word. The first of equal windows is taken, with
    the shared words in its middle; a text that shares nothing gives its start.
    """
    wanted = set(_terms(query))
    words = [list(_WORD.finditer(text)) for text in texts]
    present = [{word.group().lower() for word in found} & wanted for found in words]
    found_in = Counter(term for terms in present for term in terms)
    worth = {term: math.log(1 + len(texts) / count) for term, count in found_in.items()}
    return [_best_window(text, found, worth, window_tokens) for text, found in zip(texts, words, strict=True)]


def _best_window(text: str, words: list[re.Match], worth: dict[str, float], window_tokens: int) -> str:
    costs = [_cost(word.group()) for word in words]
    if sum(costs) <= window_tokens:
        return text
    terms = [word.group().lower() for word in words]
    hits = [i for i, term in enumerate(terms) if term in worth]
    first, last = _richest_stretch(hits, terms, costs, worth, window_tokens)

    # Grow to both sides in turn, for the words around a hit say what it is about.
    spent = sum(costs[first : last + 1])
    left, right = True, True
    while left or right:
        if left := first > 0 and spent + costs[first - 1] <= window_tokens:
            first -= 1
            spent += costs[first]
        if right := last + 1 < len(words) and spent + costs[last + 1] <= window_tokens:
            last += 1
            spent += costs[last]
    return text[words[first].start() : words[last].end()]


def _richest_stretch(
    hits: list[int], terms: list[str], costs: list[int], worth: dict[str, float], window_tokens: int
) -> tuple[int, int]:
    """First and last word of the stretch from one hit to another that is worth most and fits."""
    spent_before = [0, *accumulate(costs)]
    best, best_worth = (0, 0), 0.0
    counts: Counter[str] = Counter()
    value, oldest = 0.0, 0
    for last in hits:
        counts[terms[last]] += 1
        if counts[terms[last]] == 1:
            value += worth[terms[last]]
        # Let go of what no longer fits, and of what comes again later in the stretch.
        while oldest < len(hits) and (
            spent_before[last + 1] - spent_before[hits[oldest]] > window_tokens or counts[terms[hits[oldest]]] > 1
        ):
            term = terms[hits[oldest]]
            counts[term] -= 1
            if not counts[term]:
                value -= worth[term]
            oldest += 1
            if hits[oldest - 1] == last:
                break
        if value > best_worth + 1e-9:
            best, best_worth = (hits[oldest], last), value
    return best


def _terms(text: str) -> list[str]:
    return [match.group().lower() for match in _WORD.finditer(text)]


def _cost(word: str) -> int:
    return 1 + (len(word) - 1) // _LETTERS_PER_TOKEN
