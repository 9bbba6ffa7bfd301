"""Time the sealing primitives on this machine: `make bench-crypto`, or `python deploy/bench/crypto.py --json`.

1. Prepare: random keys in the environment unless it has some; no database, no Django.
2. For each size, time `seal` and `open_sealed` one call at a time in one thread, with associated data
   as rows have it: with a cipher prepared once (as the service does) and with raw keys.
3. Print throughput and latency, and compare with the targets.

Exit 0 when every line meets the targets, 1 when one misses, 2 on wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)
for _name in ("MEMORY_ENCRYPTION_KEY", "MEMORY_TENANT_HMAC_KEY"):
    if not os.environ.get(f"{_name}_FILE"):
        os.environ.setdefault(_name, base64.b64encode(os.urandom(32)).decode())

from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

from memory.security import associated_data, hmac_user, open_sealed, seal  # noqa: E402
from reranker.loader import cpu_cores  # noqa: E402

TARGET_OPS_PER_SECOND = 5_000
TARGET_P99_MS = 1.0
OPERATIONS_MIN = 20_000
SIZES_BYTES = {"short text": 100, "chunk text": 2_000, "384-d vector": 1_536}


@dataclass(frozen=True)
class Timing:
    """One line of the table. Latencies in microseconds, of single calls."""

    operation: str
    key: str
    content: str
    plaintext_bytes: int
    operations: int
    ops_per_second: float
    p50_us: float
    p95_us: float
    p99_us: float

    @property
    def meets_targets(self) -> bool:
        return self.ops_per_second >= TARGET_OPS_PER_SECOND and self.p99_us < TARGET_P99_MS * 1000


def measure(operations: int) -> list[Timing]:
    """Every operation, key form and size, `operations` calls each after a short warm-up."""
    raw_key = os.urandom(32)
    aad = associated_data(hmac_user("bench"), "memory_chunks.text_cipher", os.urandom(16), 1)
    timings = []
    for content, size in SIZES_BYTES.items():
        plaintext = os.urandom(size)
        for key_form, key in (("prepared", AESGCM(raw_key)), ("raw", raw_key)):
            blob = seal(plaintext, aad, key)
            if open_sealed(blob, aad, key) != plaintext:
                raise SystemExit("seal and open_sealed do not agree: nothing was measured")
            for name, call in (
                ("seal", lambda key=key, plaintext=plaintext: seal(plaintext, aad, key)),
                ("open", lambda key=key, blob=blob: open_sealed(blob, aad, key)),
            ):
                rate, latencies_ns = _time(call, operations)
                p50, p95, p99 = (latencies_ns[int(len(latencies_ns) * q)] / 1000 for q in (0.50, 0.95, 0.99))
                timings.append(Timing(name, key_form, content, size, operations, rate, p50, p95, p99))
    return timings


def _time(call: Callable[[], bytes], operations: int) -> tuple[float, list[int]]:
    """Calls per second of the loop, bookkeeping included, and the sorted latencies in nanoseconds."""
    for _ in range(operations // 20):
        call()
    latencies_ns = []
    started = time.perf_counter_ns()
    for _ in range(operations):
        before = time.perf_counter_ns()
        call()
        latencies_ns.append(time.perf_counter_ns() - before)
    elapsed_ns = time.perf_counter_ns() - started
    return operations / elapsed_ns * 1e9, sorted(latencies_ns)


def machine() -> dict:
    """What the numbers were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": cpu_cores(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "cryptography": version("cryptography"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    least = f"calls a line, at least {OPERATIONS_MIN}"
    parser.add_argument("--operations", type=int, default=OPERATIONS_MIN, help=least)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    options = parser.parse_args()
    if options.operations < OPERATIONS_MIN:
        parser.error(f"--operations must be at least {OPERATIONS_MIN}")
    timings = measure(options.operations)
    missed = [timing for timing in timings if not timing.meets_targets]
    if options.json:
        print(
            json.dumps(
                {
                    "machine": machine(),
                    "targets": {"ops_per_second": TARGET_OPS_PER_SECOND, "p99_ms": TARGET_P99_MS},
                    "met": not missed,
                    "timings": [asdict(timing) for timing in timings],
                },
                indent=2,
            )
        )
        return 1 if missed else 0
    print("  ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{'':6}{'key':10}{'content':14}{'bytes':>7}{'op/s':>11}{'p50 us':>9}{'p95 us':>9}{'p99 us':>9}")
    for t in timings:
        print(
            f"{t.operation:6}{t.key:10}{t.content:14}{t.plaintext_bytes:>7}{t.ops_per_second:>11,.0f}"
            f"{t.p50_us:>9.1f}{t.p95_us:>9.1f}{t.p99_us:>9.1f}{'' if t.meets_targets else '  MISSED'}"
        )
    verdict = f"{len(missed)} of {len(timings)} lines miss" if missed else "every line meets"
    print(f"{verdict} the targets: >= {TARGET_OPS_PER_SECOND:,} op/s, p99 < {TARGET_P99_MS:g} ms")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
