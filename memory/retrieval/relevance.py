"""Whether anything that is remembered answers a question, judged before recency by what has an absolute meaning.

A final score says which passage is best and not whether it is good: the best word hit always has 1. So two measures
that mean the same for every question and user are weighed (`deploy/decisions/0015-relevance.md`):

    evidence = cosine + COVERAGE_WEIGHT * coverage        relevant from EVIDENCE_MIN on

and from FULL_COVERAGE on in any case: an order's number says little to a model and everything to its owner. `cosine` is
the best of all candidates; `coverage` the share of the question's inverse document frequency, 0-1, that the best
passages hold together: words that no chunk holds weigh most. It is only counted where it can tip the scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from django.conf import settings

from memory.lexical.bm25 import QUERY_TERMS_MAX, LexicalQuery
from memory.lexical.lookup import Lookup
from memory.lexical.terms import Blinder, terms
from memory.retrieval.candidate import Candidate
from memory.retrieval.found import Found
from memory.rls import tenant_transaction
from memory.sealing.profile import TenantProfile
from memory.sealing.user_keys import Purpose

COVERAGE_WEIGHT = 0.2
EVIDENCE_MIN = 0.30
# Where the question has no words to look for: none but stop words, or the lexical leg is off.
COSINE_ALONE_MIN = 0.25
FULL_COVERAGE = 0.9
BEST_PASSAGES = 3


@dataclass(frozen=True)
class Evidence:
    """What speaks for an answer being there: the best `cosine`, -1 to 1, and the best passages as fused.

    `passages` must be opened before they are judged, where `is_doubtful`. `idf`, by blind term: what the search has
    counted of the question's words (`Hits.idf`), None where it did not look for them.
    """

    cosine: float
    passages: list[Candidate]
    idf: Mapping[int, float] | None = None

    @classmethod
    def of(cls, found: Found, fused: np.ndarray, idf: Mapping[int, float] | None = None) -> Evidence:
        """Of all n that were found, before any were dropped; `fused`: float64[n], `Ranked.fused`."""
        best = np.argsort(-fused, kind="stable")[:BEST_PASSAGES].tolist()
        cosine = float(np.fmax.reduce(1.0 - found.distances, initial=-1.0))
        return cls(cosine, [found.candidate(nth) for nth in best], idf)

    @property
    def is_doubtful(self) -> bool:
        """Whether it depends on the words."""
        return self.cosine < EVIDENCE_MIN

    def is_enough(self, profile: TenantProfile, question: str) -> bool:
        """The judgement. Where it `is_doubtful` and no words were looked for, they are counted now, in a transaction
        of its own; raises its errors.
        """
        if not self.is_doubtful:
            return True
        if not self.passages:
            return False
        held = _coverage(profile, question, [passage.text for passage in self.passages], self.idf)
        if held is None:
            return self.cosine >= COSINE_ALONE_MIN
        return held >= FULL_COVERAGE or self.cosine + COVERAGE_WEIGHT * held >= EVIDENCE_MIN


def _coverage(
    profile: TenantProfile, question: str, texts: Sequence[str], idf: Mapping[int, float] | None = None
) -> float | None:
    """The share, 0-1, of the question's inverse document frequency whose words `texts` hold; None without words."""
    if not settings.MEMORY_LEXICAL:
        return None
    language = settings.MEMORY_LEXICAL_LANGUAGE
    words = list(terms(question, language))[:QUERY_TERMS_MAX]
    blinder = Blinder(profile.search_key.subkey(Purpose.WORDS))
    ids = {word: blinder.id(word) for word in words}
    distinct = tuple(dict.fromkeys(ids.values()))
    if not distinct:
        return None
    if idf is None:
        idf = _counted(profile, distinct)
    whole = sum(idf.values())
    if not whole:
        return 0.0
    present = {ids[word] for text in texts for word in terms(text, language).keys() & ids.keys()}
    return sum(idf.get(term, 0.0) for term in present) / whole


def _counted(profile: TenantProfile, ids: tuple[int, ...]) -> dict[int, float]:
    """As `Hits.idf`, of now and not of a search's snapshot: shares hardly move."""
    with tenant_transaction(profile.user_hash, reads_state=False) as tx:
        lookup = Lookup(tx, profile.space, LexicalQuery(ids, (1,) * len(ids)))
        tx.end()
        return lookup.hits().idf()
