"""The bench's own database under var/bench, what its numbers were measured on, and their percentiles."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

BENCH_ROOT = Path(__file__).resolve().parents[2] / "var" / "bench"
DATABASE = "r1"


@contextmanager
def service(root: Path = BENCH_ROOT):
    """Django on the bench's own running cluster under `root`, migrated, with its space registered."""
    for name in ("DATABASE_URL", "DATABASE_URL_FILE"):
        os.environ.pop(name, None)
    os.environ["R1_VAR_DIR"] = str(root)
    os.environ["DJANGO_SETTINGS_MODULE"] = "r1site.settings.dev"
    from r1site.embedded.bootstrap import bootstrap
    from r1site.embedded.cluster import Cluster
    from r1site.embedded.secrets import ensure_development_secrets

    cluster = Cluster(root / "postgres", durable=True)
    ensure_development_secrets(root / "secrets", database_exists=cluster.exists())
    with cluster:
        bootstrap(cluster, root / "secrets", DATABASE)
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connections

        call_command("migrate", database="owner", verbosity=0)
        call_command("register_space", stdout=sys.stderr)
        try:
            yield connections
        finally:
            connections["default"].close_pool()
            connections.close_all()


def machine(connections) -> dict:
    """What the numbers were measured on."""
    from reranker.loader import cpu_cores

    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT current_setting('server_version'), current_setting('shared_buffers')")
        server, shared_buffers = cursor.fetchone()
    connections["default"].close()
    return {
        "cpu": model or platform.machine(),
        "cores": cpu_cores(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "postgresql": server,
        "shared_buffers": shared_buffers,
        **{name: version(name) for name in ("torch", "psycopg", "cryptography")},
    }


def percentiles(samples_ms: Iterable[float]) -> dict:
    """p50, p95, p99 and the number of samples; milliseconds."""
    ordered = sorted(samples_ms)
    at = {f"p{q}": round(ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))], 3) for q in (50, 95, 99)}
    return {"n": len(ordered), **at}
