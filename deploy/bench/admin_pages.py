"""How long staff's pages take over a million rows, and what they ask the database: `make bench-admin`.

Fills a PostgreSQL server of its own, in a temporary folder: documents, chunks, tenants, data keys and lines of the
ledger, each so many, and a hundredth of it lines of the audit log. Then asks each page in turn, ROUNDS times, through
Django in this process, as somebody who is logged in.

Prints a line a page: median and 95th percentile in milliseconds, and how many queries it took; with --queries these
too. Exit 1 where a page's median is over LIMIT_MS.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.drills.schema_rollback import fill, own_database  # noqa: E402

LIMIT_MS = 300
ROUNDS = 15

_HASH = "encode(sha256(('user ' || g)::bytea), 'hex')"
_MORE = (
    "INSERT INTO memory_tenants (user_hash, profile, user_id_cipher, active_space, chunk_count, document_count, state,"
    f" created_at) SELECT {_HASH}, gen_random_uuid(), sha256('id'), 0, g %% 50, g %% 20,"
    " CASE WHEN g %% 100000 = 0 THEN 'moved' ELSE 'active' END, now() - make_interval(mins => g %% 40000)"
    " FROM generate_series(1, %s::integer) g",
    "INSERT INTO memory_data_keys (user_hash, generation, key_id, sealed_key)"
    f" SELECT {_HASH}, 1, 'k1', substring(decode(repeat(md5('key'), 4), 'hex') FOR 60)"
    " FROM generate_series(1, %s::integer) g",
    "INSERT INTO memory_erasures (user_hash, id, erased_at, unrecoverable_after, erased_documents, erased_chunks)"
    f" SELECT {_HASH}, gen_random_uuid(), now(), now(), 1, 1 FROM generate_series(1, %s::integer) g",
    "INSERT INTO memory_audit (actor, action, subject, detail)"
    f" SELECT 'bench', 'test.line', {_HASH}, '{{}}' FROM generate_series(1, %s::integer / 100) g",
    "UPDATE memory_chunks SET quarantined_at = now() WHERE chunk_index = 0 AND doc_id LIKE '%0000'",
    "ANALYZE",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each table (%(default)s)")
    parser.add_argument("--queries", action="store_true", help="print what each page asks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r1-admin-") as folder:
        Path(folder).chmod(0o755)
        return _bench(Path(folder), options)


def _bench(folder: Path, options: argparse.Namespace) -> int:
    with own_database(folder, durable=False) as superuser:
        fill(superuser, options.rows)
        for statement in _MORE:
            superuser.execute(statement, [options.rows] if "%s" in statement else None)
        return _ask(options)


def _ask(options: argparse.Namespace) -> int:
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connections
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from memory.staff.dashboard import forget_dashboard, wait_for_dashboard

    call_command("create_staff", "bench", "--operator", stdout=io.StringIO())
    client = Client(headers={"host": "127.0.0.1"})
    client.force_login(User.objects.get(username="bench"), "django.contrib.auth.backends.ModelBackend")
    is_late = False
    print(f"{options.rows:,} rows of each table; load {os.getloadavg()[0]:.1f}")
    print(f"{'page':42} {'p50 ms':>8} {'p95 ms':>8} {'queries':>8}")
    for name, address in _pages().items():
        taken = []
        for _ in range(ROUNDS):
            # One look at a time, as in a service.
            wait_for_dashboard()
            if "uncounted" in name:
                forget_dashboard()
            began = time.perf_counter()
            response = client.get(address)
            taken.append((time.perf_counter() - began) * 1000)
            assert response.status_code == 200, (address, response.status_code)
        with CaptureQueriesContext(connections["staff"]) as asked:
            client.get(address)
        median = statistics.median(taken)
        is_late |= median > LIMIT_MS
        print(f"{name:42} {median:8.1f} {sorted(taken)[int(0.95 * (ROUNDS - 1))]:8.1f} {len(asked):8}")
        if options.queries:
            for query in asked.captured_queries:
                print("   ", query["time"], " ".join(query["sql"].split())[:400])
    return 1 if is_late else 0


def _pages() -> dict[str, str]:
    """Name -> address: the first page, each list from its start and from its middle, narrowed down, and a row."""
    from django.contrib.admin.utils import quote

    from memory.models import ChunkMeta, DocumentMeta

    row = DocumentMeta.objects.order_by("user_hash", "doc_id")[0]
    chunk = ChunkMeta.objects.order_by("user_hash", "id", "space")[0]
    middle = "7" * 64
    lists = {
        "tenantmeta": [middle], "documentmeta": [middle, "x"], "datakeymeta": [middle, "1"],
        "chunkmeta": [middle, "0" * 8 + "-0000-0000-0000-" + "0" * 12, "0"],
        "erasuremeta": [middle, "0" * 8 + "-0000-0000-0000-" + "0" * 12],
    }  # fmt: skip
    pages = {"first page, uncounted": "/admin/", "first page": "/admin/"}
    for name, after in lists.items():
        pages[f"{name}, from the start"] = f"/admin/memory/{name}/"
        pages[f"{name}, from the middle"] = f"/admin/memory/{name}/?after={json.dumps(after)}"
        pages[f"{name}, of one user"] = f"/admin/memory/{name}/?user_hash={row.user_hash}"
    pages["tenants that have moved"] = "/admin/memory/tenantmeta/?state=moved"
    pages["quarantined chunks"] = "/admin/memory/chunkmeta/?quarantined=yes"
    pages["one document"] = f"/admin/memory/documentmeta/{quote(row.key)}/change/"
    pages["one chunk"] = f"/admin/memory/chunkmeta/{quote(chunk.key)}/change/"
    pages["audit log"] = "/admin/memory/auditline/"
    pages["audit log of one user"] = f"/admin/memory/auditline/?subject={row.user_hash}"
    return pages


if __name__ == "__main__":
    sys.exit(main())
