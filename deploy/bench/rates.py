"""Time one decision of the rate limiter: `make bench-rates`, or `python deploy/bench/rates.py --json`.

1. Start the bench's own embedded, durable PostgreSQL under var/bench, as deploy/bench/query.py does.
2. Charge buckets as a request does (a transaction of its own, from the pool): many users in turn; one user; one user
   from several threads at once, whose decisions wait for one row; one user past his limit.
3. Print milliseconds a decision. It is what a rate limit adds to a request.

Exit 0, or 2 on wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from deploy.bench.query import service  # noqa: E402

USERS = 200
THREADS = 4


def timed_ms(user_hashes: list[str], decisions: int) -> list[float]:
    """Milliseconds of each of `decisions` charges, the users taking turns."""
    from django.db import connections

    from memory.errors import RateLimited
    from memory.rls import bind_tenant
    from memory.services.rate_limits import QUERY, charge

    found = []
    try:
        for number in range(decisions):
            with bind_tenant(user_hashes[number % len(user_hashes)]):
                started = time.perf_counter()
                with suppress(RateLimited):
                    charge(QUERY)
                found.append((time.perf_counter() - started) * 1000)
    finally:
        connections["default"].close()
    return found


def measure(decisions: int) -> dict[str, dict[str, float]]:
    """p50, p95 and p99 by case."""
    import numpy as np
    from django.conf import settings

    from memory.security import hmac_user
    from r1site.settings.env import Rate

    def users(count: int) -> list[str]:
        return [hmac_user(f"bench-{uuid.uuid4()}") for _ in range(count)]

    def in_threads(user_hashes: list[str]) -> list[float]:
        with ThreadPoolExecutor(THREADS) as pool:
            calls = [pool.submit(timed_ms, user_hashes, decisions // THREADS) for _ in range(THREADS)]
            return [each for call in calls for each in call.result()]

    settings.MEMORY_RATE_QUERY = Rate(1_000_000, 1)
    timed_ms(users(1), 50)
    cases = {
        f"{USERS} users in turn": timed_ms(users(USERS), decisions),
        "one user": timed_ms(users(1), decisions),
        f"one user, {THREADS} threads at once": in_threads(users(1)),
    }
    settings.MEMORY_RATE_QUERY = Rate(1, 3600)
    cases["one user past the limit"] = timed_ms(users(1), decisions)
    return {
        name: dict(zip(("p50", "p95", "p99"), np.percentile(found, [50, 95, 99]).round(2).tolist(), strict=True))
        for name, found in cases.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--decisions", type=int, default=2_000, help="a case; default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    if options.decisions < THREADS:
        parser.error(f"at least {THREADS} decisions")
    with service():
        report = measure(options.decisions)
    if options.json:
        print(json.dumps(report))
        return 0
    print(f"{'milliseconds a decision':40}{'p50':>9}{'p95':>9}{'p99':>9}")
    for name, p in report.items():
        print(f"{name:40}{p['p50']:>9.2f}{p['p95']:>9.2f}{p['p99']:>9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
