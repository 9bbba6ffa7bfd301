"""The signals as people see them: titles, units, limits, and the words for values of a run's evidence."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from memory.rollout.decision import BY_NAME, NEW, STABLE
from memory.rollout.evidence import Evidence, moment

SAID_MAX_CHARS = 2_000


_UNITS = {"share": ("%", 100.0), "ms": ("ms", 1.0), "count": ("", 1.0)}


@dataclass(frozen=True)
class Shown:
    """How one signal of the table in `decision.py` is shown: shares in percent, its limits with it."""

    signal: str
    title: str
    short: str

    @property
    def unit(self) -> str:
        return _UNITS[BY_NAME[self.signal].unit][0]

    @property
    def factor(self) -> float:
        """What a measured value is multiplied by, into `unit`."""
        return _UNITS[BY_NAME[self.signal].unit][1]

    @property
    def is_at_least(self) -> bool:
        """Whether limits are what it must not fall below."""
        return BY_NAME[self.signal].is_floor

    @property
    def rollback(self) -> float | None:
        """The limit in `unit` beyond which it rolls back; None where it only warns."""
        row = BY_NAME[self.signal]
        return None if row.beyond == "warn" else row.limit * self.factor

    @property
    def watch(self) -> float | None:
        """The limit in `unit` beyond which it is watched, or of one that only warns, beyond which it warns."""
        row = BY_NAME[self.signal]
        limit = row.limit if row.beyond == "warn" else row.watch
        return None if limit is None else limit * self.factor

    def points(self, found: Evidence, variant: str) -> list[tuple[float, float | None]]:
        """(minute, value in `unit`) at each snapshot."""
        points = []
        for shot in found.snapshots:
            reading = shot.signals.get(self.signal, {}).get(variant)
            value = reading.value if reading else None
            points.append((shot.minute, None if value is None else value * self.factor))
        return points

    def told(self, value: float) -> str:
        """A value as it was measured, with its unit."""
        return f"{value * self.factor:,.4g} {self.unit}".rstrip()

    def standing(self, value: float) -> str:
        """`rollback`, `watch` or `good`: on which side of its limits a value is, as it was measured."""
        shown = value * self.factor
        for name, limit in (("rollback", self.rollback), ("watch", self.watch)):
            if limit is not None and (shown < limit if self.is_at_least else shown > limit):
                return name
        return "good"

    def limits(self) -> str:
        """The limits in words."""
        sign = "below" if self.is_at_least else "over"
        mild = "warns" if self.rollback is None else "watch"
        parts = [
            f"{name} {sign} {limit:g} {self.unit}".rstrip()
            for name, limit in (("rolls back", self.rollback), (mild, self.watch))
            if limit is not None
        ]
        return ", ".join(parts)


# Those of a user's own wait and success first.
SHOWN = (
    Shown("query_error_rate", "Errors of queries", "query errors"),
    Shown("query_p95_ms", "Query, p95", "query p95"),
    Shown("first_token_p95_ms", "First token of a stream, p95", "first token p95"),
    Shown("stream_success", "Streams that succeed", "streams"),
    Shown("pool_share", "Database connections in use", "pool"),
    Shown("request_error_rate", "Errors of all requests", "errors"),
    Shown("auth_p95_ms", "Verifying a token, p95", "auth p95"),
    Shown("rerank_p95_ms", "Reranking, p95", "rerank p95"),
    Shown("ann_p95_ms", "Search, p95", "search p95"),
    Shown("rls_denied", "Denials by row-level security", "RLS denials"),
    Shown("contradictions", "Contradictions about whose data it is", "contradictions"),
)


def variants_of(found: Evidence) -> list[str]:
    """The variants that anything was measured of: the new one first, `all` (of the service as a whole) last."""
    names = {variant for shot in found.snapshots for signal in shot.signals.values() for variant in signal}
    return sorted(names, key=lambda name: ({NEW: 0, STABLE: 1}.get(name, 2), name))


def verdict_of(found: Evidence) -> str:
    """What the run decided, or "" where nothing says."""
    verdict = found.decision.get("verdict")
    return verdict if isinstance(verdict, str) else ""


def load_rows(load: list[dict[str, Any]]) -> list[list[str]]:
    """A row a user of the bursts and one of all: requests, those answered 200, others by status, p50 and p95 in ms."""
    by_user: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for request in load:
        by_user[said(request.get("user"))].append(request)
    groups = sorted(by_user.items(), key=lambda pair: (len(pair[0]), pair[0]))
    if groups:
        groups.append(("all", load))
    rows = []
    for user, requests in groups:
        took = sorted(request["ms"] for request in requests if isinstance(request.get("ms"), int | float))
        others: dict[str, int] = defaultdict(int)
        for request in requests:
            if request.get("status") != 200:
                others[said(request.get("status"))] += 1
        p50, p95 = (f"{took[min(len(took) - 1, int(len(took) * q))]:,.1f}" if took else "" for q in (0.5, 0.95))
        other = ", ".join(f"{count} x {status}" for status, count in sorted(others.items())) or "none"
        rows.append([user, f"{len(requests):,}", f"{len(requests) - sum(others.values()):,}", other, p50, p95])
    return rows


def said(value: Any) -> str:
    """Whatever a file says, as text of bounded length."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SAID_MAX_CHARS else f"{text[:SAID_MAX_CHARS]}..."


def written(values: dict[str, Any]) -> str:
    """The fields of an event as `name: value`, one after another."""
    return "; ".join(f"{name}: {said(value)}" for name, value in values.items())


def clock(value: Any) -> str:
    """A moment in UTC to the second, without a character that HTML or Markdown would take for more."""
    if (seconds := moment(value)) is None:
        return "an unknown time"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"
