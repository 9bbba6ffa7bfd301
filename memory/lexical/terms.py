"""From text to terms, and from terms to blind ids.

A term is what two texts must share for a lexical match: a stemmed word, or a number, date or identifier
as it stands. What is stored is never the term but an HMAC of it under the user's own key, so equal words
look equal within one user and unrelated across users.

Nothing here knows Django. Stemming: Snowball (Porter 2001), by PyStemmer.
"""

from __future__ import annotations

import hmac
import re
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import Stemmer

from memory.formats.combining_marks import stream_safe

LANGUAGES = ("none", *sorted(Stemmer.algorithms()))
DEFAULT_LANGUAGE = "english"

STOPWORDS_FOLDER = Path(__file__).parent / "stopwords"

ID_BITS = 32
# What the stored form holds of one chunk: BM25 saturates long before either.
FREQUENCY_MAX = 511
LENGTH_MAX = 8191

_CJK = "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af"


_LETTERS = f"[^\\W_{_CJK}]"
_DIGIT = re.compile(r"\d")


@cache
def _word() -> str:
    """Letters and digits, with their combining marks: `\\w` has the first and not the second.

    As the patterns below, made when first asked for: most commands read no text.
    """
    ranges: list[list[int]] = []
    codes = range(0x300, min(sys.maxunicode, 0x1E94B))
    for code, category in zip(codes, map(unicodedata.category, map(chr, codes)), strict=True):
        if category in ("Mn", "Mc"):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    marks = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return f"{_LETTERS}+(?:[{marks}]+{_LETTERS}*)*"


@cache
def _token() -> re.Pattern[str]:
    """A run of CJK characters; or words, joined by what joins the parts of an identifier, a number, a date, an address.

    A comma joins digits only; `+` and `#` may end a name (C++, C#).
    """
    word = _word()
    return re.compile(
        f"(?P<cjk>[{_CJK}]+)|(?P<word>{word}(?:(?:[._\\-@:/\\\\+&#]{{1,3}}|(?<=\\d),(?=\\d)){word})*(?:\\+\\+|#)?)"
    )


@cache
def _part() -> re.Pattern[str]:
    return re.compile(_word())


@cache
def _any_word() -> re.Pattern[str]:
    return re.compile(f"[{_CJK}]+|{_word()}")


def terms(text: str, language: str = DEFAULT_LANGUAGE) -> Counter[str]:
    """How often each term occurs in `text`.

    NFKC, case folded. Words lose the language's stop words and are stemmed; what holds a digit is kept
    as it stands. Compounds (`ERR_CONN_4711`, `v2.1.3`, `2026-01-31`, `anna@example.org`) count whole and
    by their parts. Chinese, Japanese and Korean count by pairs of neighbouring characters.
    `language`: one of LANGUAGES; `none` neither drops nor stems. Raises ValueError for another.
    """
    return Counter(_terms(text, language))


def _terms(text: str, language: str) -> Iterator[str]:
    if language not in LANGUAGES:
        raise ValueError(f"no such language: {language}")
    stop, stem = stop_words(language), _stemmer(language)
    for token in _token().finditer(folded(text)):
        run = token["cjk"]
        if run:
            yield from (run[i : i + 2] for i in range(max(1, len(run) - 1)))
            continue
        word = token["word"]
        if word.isalpha():
            parts = [word]
        else:
            parts = _part().findall(word)
            if parts != [word]:
                yield word
        for part in parts:
            if part not in stop:
                yield part if _DIGIT.search(part) else stem(part)


def folded_words(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, folded) of each word in `text`, as it stands: a run of letters and digits, none taken apart."""
    for word in _any_word().finditer(text):
        if as_folded := folded(word[0]):
            yield word.start(), word.end(), as_folded


def folded(text: str) -> str:
    """NFKC, case folded; composed again, since folding can take characters apart. Long runs of marks are cut before."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", stream_safe(text)).casefold())


@cache
def stop_words(language: str) -> frozenset[str]:
    """The stop words of a language, folded; none for one without a list."""
    path = STOPWORDS_FOLDER / f"{language}.txt"
    return frozenset(folded(path.read_text("utf-8")).split()) if path.exists() else frozenset()


_stemmers = threading.local()


def _stemmer(language: str):
    """A stemming function of this thread's own: Snowball's state is not shared between threads."""
    if language == "none":
        return str
    if not hasattr(_stemmers, language):
        setattr(_stemmers, language, Stemmer.Stemmer(language).stemWord)
    return getattr(_stemmers, language)


@dataclass(frozen=True)
class BlindTerms:
    """One chunk's terms as they are stored: `ids` ascending, `frequencies` beside them, `length` in terms."""

    ids: tuple[int, ...]
    frequencies: tuple[int, ...]
    length: int


class Blinder:
    """Terms to ids under a search key's sub-key for words, each term reckoned once: made for one call."""

    def __init__(self, key: bytes):
        self._hmac = hmac.new(key, digestmod="sha256")
        self._ids: dict[str, int] = {}

    def id(self, term: str) -> int:
        """The first 32 bits of HMAC-SHA256(key, term), as a signed integer."""
        found = self._ids.get(term)
        if found is None:
            keyed = self._hmac.copy()
            keyed.update(term.encode())
            found = self._ids[term] = int.from_bytes(keyed.digest()[: ID_BITS // 8], "big", signed=True)
        return found

    def blind(self, counts: Mapping[str, int]) -> BlindTerms:
        """The stored form of one chunk's terms; two terms of one id count as one."""
        by_id: Counter[int] = Counter()
        for term, count in counts.items():
            by_id[self.id(term)] += count
        ids = tuple(sorted(by_id))
        frequencies = tuple(min(by_id[i], FREQUENCY_MAX) for i in ids)
        return BlindTerms(ids, frequencies, min(sum(by_id.values()), LENGTH_MAX))


def blind(key: bytes, words: Iterable[str]) -> list[int]:
    """The id of each of `words` under `key`, in their order."""
    blinder = Blinder(key)
    return [blinder.id(word) for word in words]


def expected_collisions(distinct_terms: int) -> float:
    """How many pairs of `distinct_terms` terms of one user are expected to share an id: n (n - 1) / 2 / 2^32."""
    return distinct_terms * (distinct_terms - 1) / 2 / 2**ID_BITS
