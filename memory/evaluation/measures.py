"""What a ranking is worth. Relevance is binary; a ranking is a list of distinct document ids, best first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_RESAMPLES = 10_000
_BATCH_RESAMPLES = 500


def recall_at(k: int, ranking: Sequence[str], relevant: Collection[str]) -> float:
    """The share of the relevant documents that stand among the first `k`."""
    return sum(doc_id in relevant for doc_id in ranking[:k]) / len(relevant)


def hit_at(k: int, ranking: Sequence[str], relevant: Collection[str]) -> float:
    """1 when one of the first `k` is relevant, else 0."""
    return float(any(doc_id in relevant for doc_id in ranking[:k]))


def ndcg_at(k: int, ranking: Sequence[str], relevant: Collection[str]) -> float:
    """nDCG with gain 1 for a relevant document and discount log2(1 + rank), rank from 1.

    The ideal ranking has min(k, number of relevant) relevant documents first. Source: Järvelin & Kekäläinen,
    "Cumulated gain-based evaluation of IR techniques" (2002), in the form that trec_eval's ndcg_cut computes.
    """
    gained = sum(1 / math.log2(1 + rank) for rank, doc_id in enumerate(ranking[:k], start=1) if doc_id in relevant)
    ideal = sum(1 / math.log2(1 + rank) for rank in range(1, min(k, len(relevant)) + 1))
    return gained / ideal


@dataclass(frozen=True)
class Interval:
    """A mean, often of differences, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_interval(
    ours: Sequence[float], theirs: Sequence[float], *, resamples: int = BOOTSTRAP_RESAMPLES, seed: int = 1
) -> Interval:
    """The mean of `ours - theirs` over the same queries, with a 95 % percentile bootstrap interval.

    Queries are drawn with replacement, pairs kept together (Efron & Tibshirani, "An Introduction to the Bootstrap",
    1993, ch. 13). The same input and seed give the same interval. Raises ValueError unless both have the same
    length, at least 1.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError("a paired interval needs the same queries on both sides")
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    random, n = np.random.default_rng(seed), len(differences)
    means = [
        differences[random.integers(0, n, (min(_BATCH_RESAMPLES, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, _BATCH_RESAMPLES)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(float(differences.mean()), float(low), float(high))


def mean_interval(values: Sequence[float], *, resamples: int = BOOTSTRAP_RESAMPLES, seed: int = 1) -> Interval:
    """The mean of `values` with an interval made as that of `paired_interval`, which see."""
    return paired_interval(values, [0.0] * len(values), resamples=resamples, seed=seed)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of `values` do not exceed, by linear interpolation."""
    return float(np.percentile(np.asarray(values, dtype=np.float64), percent))


def distinct(doc_ids: Iterable[str]) -> list[str]:
    """Each document once, where its best passage stands."""
    return list(dict.fromkeys(doc_ids))
