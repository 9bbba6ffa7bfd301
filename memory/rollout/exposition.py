"""Metrics read from the service's own page: scrapes, and what counters and histograms did between two of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

# What is older than any window serves for a stage as a whole: two days and more of it, the longest a stage lasts.
OLDER_APART_SECONDS = 300.0
OLDER_MAX = 600

Labels = frozenset[tuple[str, str]]
Wanted = str | tuple[str, ...]


@dataclass(frozen=True)
class Scrape:
    """One reading of the page: `at` in seconds of the reader's clock; samples by name, then by labels."""

    at: float
    samples: Mapping[str, Mapping[Labels, float]]


def parse(text: str, at: float, only: Collection[str] | None = None) -> Scrape:
    """A page of the Prometheus text format; `only`: the metrics to keep, without a histogram's endings.

    Raises ValueError for what is no such page.
    """
    if only is not None:
        names = tuple(only)
        text = "\n".join(line for line in text.splitlines() if line.startswith(names)) + "\n"
    samples: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return Scrape(at, samples)


class ScrapedWindow:
    """What happened from the first of some scrapes to the last, the oldest first."""

    def __init__(self, scrapes: list[Scrape]):
        self._scrapes = scrapes

    def increase(self, name: str, **wanted: Wanted) -> float:
        """By how much counters grew, summed over all that have these labels (one of several values, where several are
        given). One that fell was reset, and began again at 0; so did one that is new."""
        return sum(self._grown(name, wanted).values())

    def quantile(self, q: float, name: str, **wanted: Wanted) -> tuple[float | None, float]:
        """The quantile of a histogram, and of how many: linear inside its bucket, as Prometheus does it."""
        buckets: dict[float, float] = {}
        for labels, grown in self._grown(f"{name}_bucket", wanted).items():
            bound = float(dict(labels)["le"])
            buckets[bound] = buckets.get(bound, 0.0) + grown
        return bucket_quantile(q, buckets)

    def mean(self, name: str) -> tuple[float | None, float]:
        """A gauge's mean over the scrapes, summed over its series, and how many scrapes had it."""
        values = [sum(scrape.samples[name].values()) for scrape in self._scrapes if name in scrape.samples]
        return (sum(values) / len(values) if values else None), len(values)

    def _grown(self, name: str, wanted: Mapping[str, Wanted]) -> dict[Labels, float]:
        grown: dict[Labels, float] = {}
        for before, after in zip(self._scrapes, self._scrapes[1:], strict=False):
            earlier = before.samples.get(name, {})
            for labels, value in after.samples.get(name, {}).items():
                if _has(labels, wanted):
                    was = earlier.get(labels, 0.0)
                    grown[labels] = grown.get(labels, 0.0) + (value - was if value >= was else value)
        return grown


def bucket_quantile(q: float, buckets: Mapping[float, float]) -> tuple[float | None, float]:
    """The quantile of cumulative counts by upper bound, and how many there are; None where there are none.

    In the first bucket from 0; in the one without an upper bound, the highest bound there is.
    """
    bounds = sorted(buckets)
    total = max((buckets[bound] for bound in bounds), default=0.0)
    if total <= 0 or len(bounds) < 2:
        return None, max(total, 0.0)
    rank, below, lower = q * total, 0.0, 0.0
    for bound in bounds:
        # Scrapes are not of one moment in all workers: a bucket may seem to have less than the one below it.
        count = max(buckets[bound], below)
        if count >= rank:
            if bound == float("inf"):
                return bounds[-2], total
            share = (rank - below) / (count - below) if count > below else 1.0
            return lower + (bound - lower) * share, total
        below, lower = count, bound
    return bounds[-1], total


def _has(labels: Labels, wanted: Mapping[str, Wanted]) -> bool:
    if not wanted:
        return True
    values = dict(labels)
    return all(values.get(name) in (value if isinstance(value, tuple) else (value,)) for name, value in wanted.items())


class ScrapedSource:
    """The page read again and again, remembered for `keep_seconds`, and roughly for two days.

    `fetch` gives its text, or raises Unreachable.
    """

    def __init__(self, fetch: Callable[[], str], keep_seconds: float, only: Collection[str] | None = None):
        self._fetch, self._keep_seconds, self._only = fetch, keep_seconds, only
        self._scrapes: deque[Scrape] = deque()
        self._older: deque[Scrape] = deque(maxlen=OLDER_MAX)

    def look(self, now: float) -> None:
        """Read the page now. Raises Unreachable, or ValueError where it is no page of metrics."""
        self._scrapes.append(parse(self._fetch(), now, self._only))
        # One that is older stays, since the window begins at it.
        while len(self._scrapes) > 2 and self._scrapes[1].at <= now - self._keep_seconds:
            old = self._scrapes.popleft()
            if not self._older or old.at - self._older[-1].at >= OLDER_APART_SECONDS:
                self._older.append(old)

    def window(self, begin: float, end: float) -> ScrapedWindow:
        """From the last scrape at or before `begin`, or the first there is, to the last at or before `end`."""
        older = self._older if self._scrapes and begin < self._scrapes[0].at else ()
        within = [scrape for scrape in (*older, *self._scrapes) if scrape.at <= end]
        first = max((place for place, scrape in enumerate(within) if scrape.at <= begin), default=0)
        return ScrapedWindow(within[first:])
