"""A running service as an operator's tools see it: by HTTP, as its health and its metrics say."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

from memory.maintenance.diagnosis import Finding, Status

ENDPOINT_SECONDS = 5.0


def look_at_health(endpoint: str) -> Iterator[Finding]:
    """What /health/ready says. Raises OSError where nobody answers."""
    status, body = _get(f"{endpoint.rstrip('/')}/health/ready", "")
    try:
        components = json.loads(body)["components"]
    except (ValueError, KeyError, TypeError):
        components = {}
    bad = [f"{name} {found['status']}" for name, found in components.items() if found["status"] != "ok"]
    found: Status = "fail" if status != 200 else "warn" if bad else "ok"
    yield Finding("health", found, f"{endpoint} answers {status}{': ' if bad else ''}{', '.join(bad)}")


def look_at_metrics(endpoint: str, token: str) -> Iterator[Finding]:
    """Whether a Prometheus can scrape it. Raises OSError where nobody answers."""
    status, body = _get(f"{endpoint.rstrip('/')}/metrics/memory", token)
    if status != 200 or b"memory_db_pool_max" not in body:
        hint = "a Prometheus needs MEMORY_METRICS_TOKEN as its bearer token (deploy/guide/metrics.md)"
        yield Finding("metrics", "fail", f"{endpoint} answers {status} to a scrape", hint)
    else:
        yield Finding("metrics", "ok", f"{endpoint} can be scraped: {len(body):,} bytes")


def _get(url: str, token: str) -> tuple[int, bytes]:
    """(status, body). Raises OSError where nobody answers."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=ENDPOINT_SECONDS) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except http.client.HTTPException as exc:
        raise OSError(type(exc).__name__) from None
