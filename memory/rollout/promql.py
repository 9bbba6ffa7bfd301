"""Metrics read from a Prometheus server, by PromQL over HTTP."""

from __future__ import annotations

import math
from urllib.parse import urlencode

from memory.rollout.calls import Unreachable, call
from memory.rollout.exposition import Wanted


class PrometheusWindow:
    """What a server saw from `end` - `seconds` to `end`, in seconds since 1970. Raises Unreachable."""

    def __init__(self, url: str, end: float, seconds: float):
        self._url, self._end, self._seconds = url.rstrip("/"), end, max(1, round(seconds))

    def increase(self, name: str, **wanted: Wanted) -> float:
        value = self._ask(f"sum(increase({name}{_selector(wanted)}[{self._seconds}s]))")
        return 0.0 if value is None else value

    def quantile(self, q: float, name: str, **wanted: Wanted) -> tuple[float | None, float]:
        grown = f"increase({name}_bucket{_selector(wanted)}[{self._seconds}s])"
        n = self._ask(f"sum(increase({name}_count{_selector(wanted)}[{self._seconds}s]))") or 0.0
        return (self._ask(f"histogram_quantile({q}, sum by (le) ({grown}))") if n else None), n

    def mean(self, name: str) -> tuple[float | None, float]:
        value = self._ask(f"sum(avg_over_time({name}[{self._seconds}s]))")
        return value, 0.0 if value is None else 1.0

    def _ask(self, query: str) -> float | None:
        """The one value of a query; None where there is none, or no number."""
        answer = call(f"{self._url}/api/v1/query?{urlencode({'query': query, 'time': f'{self._end:.3f}'})}")
        try:
            result = answer.json()["data"]["result"]
            value = float(result[0]["value"][1]) if result else math.nan
        except (TypeError, KeyError, IndexError, ValueError):
            raise Unreachable(f"Prometheus answered {answer.status}, and no result") from None
        return value if math.isfinite(value) else None


def _selector(wanted: dict[str, Wanted]) -> str:
    """`{a="b", c=~"d|e"}`. The values are words of ours, without anything to escape."""
    matchers = (
        f'{label}=~"{"|".join(value)}"' if isinstance(value, tuple) else f'{label}="{value}"'
        for label, value in wanted.items()
    )
    return f"{{{', '.join(matchers)}}}"


class PrometheusSource:
    """A server that scrapes the service by itself; nothing is remembered here."""

    def __init__(self, url: str):
        self._url = url

    def look(self, now: float) -> None:
        """Whether it answers. Raises Unreachable."""
        PrometheusWindow(self._url, now, 1).mean("up")

    def window(self, begin: float, end: float) -> PrometheusWindow:
        return PrometheusWindow(self._url, end, end - begin)
