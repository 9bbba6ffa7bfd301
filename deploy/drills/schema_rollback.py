"""The way back of the schema, at size: the last migration taken back and made again, and nothing lost.

    make drill-schema                                  1,000,000 documents and as many chunks
    make drill-schema ROWS=100000 ARGS="--below 0018_retired_keys"

Fills a PostgreSQL server of its own, in a temporary folder, by INSERT as its superuser: documents and chunks of 64
users, with vectors of 384 dimensions. Then takes the last migration back as `canary run --schema` does; with `--below`
also those before it, one by one, down to the one named, which stays. Then makes all of them again. Before, below and
after, it counts the rows of both tables and sums a hash of every row.

Prints the seconds of each step as JSON. Exit 1 where a row is lost or changed, or a step back took LIMIT_SECONDS.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

LIMIT_SECONDS = 300
USERS = 64
DATABASE = "r1"
PIECE_ROWS = 50_000

_TENANTS = """
INSERT INTO memory_tenants (user_hash, profile, user_id_cipher, active_space)
SELECT encode(sha256(u::text::bytea), 'hex'), gen_random_uuid(), sha256('id'), 0 FROM generate_series(1, %s) u"""
_DOCUMENTS = """
INSERT INTO memory_documents (user_hash, doc_id, source, chunk_count, char_count, generation, meta_cipher, content_mac,
    created_at, expires_at)
SELECT encode(sha256((g %% %s + 1)::text::bytea), 'hex'), 'document ' || g, 'drill', 1, 400, 1, sha256(g::text::bytea),
    sha256(g::text::bytea), now() - make_interval(secs => g),
    CASE WHEN g %% 10 = 0 THEN now() + interval '30 days' END
FROM generate_series(%s::integer, %s::integer) g"""
_CHUNKS = """
INSERT INTO memory_chunks (id, created_at, expires_at, chunk_index, char_start, char_end, generation, space, user_hash,
    doc_id, source, embedding, text_cipher, meta_cipher, emb_cipher)
SELECT gen_random_uuid(), now() - make_interval(secs => g), CASE WHEN g %% 10 = 0 THEN now() + interval '30 days' END,
    0, 0, 400, 1, 0, encode(sha256((g %% %s + 1)::text::bytea), 'hex'), 'document ' || g, 'drill',
    array_fill((g %% 100)::real / 100 + 0.001, ARRAY[384])::halfvec,
    decode(repeat(md5(g::text), 12), 'hex'), sha256(g::text::bytea), decode(repeat(md5(g::text), 48), 'hex')
FROM generate_series(%s::integer, %s::integer) g"""
# Whatever a migration adds to a row or takes from it, these columns stay.
_SUMS = {
    "memory_documents": "user_hash || doc_id || source || md5(meta_cipher) || md5(content_mac) || created_at",
    "memory_chunks": "user_hash || id || doc_id || chunk_index || md5(text_cipher) || md5(emb_cipher)"
    " || md5(halfvec_send(embedding))",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="documents, and as many chunks (%(default)s)")
    parser.add_argument("--below", help="go back to this migration, one by one; default: only the last one back")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="r1-schema-") as folder:
        Path(folder).chmod(0o755)
        report = _drill(Path(folder), options)
    print(json.dumps(report, indent=2))
    return 1 if report["failures"] else 0


def _drill(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    with own_database(folder, durable=True) as superuser:
        return _walk(superuser, options)


@contextmanager
def own_database(folder: Path, *, durable: bool) -> Iterator[Any]:
    """A migrated database on a server of its own below `folder`, with Django set up for it as in development.

    Gives a connection past every policy, as a restore has it.
    """
    for name in ("DATABASE_URL", "DATABASE_URL_FILE"):
        os.environ.pop(name, None)
    os.environ |= {"R1_VAR_DIR": str(folder), "DJANGO_SETTINGS_MODULE": "r1site.settings.dev"}
    from r1site.embedded.bootstrap import bootstrap
    from r1site.embedded.cluster import Cluster
    from r1site.embedded.secrets import ensure_development_secrets

    cluster = Cluster(folder / "postgres", durable=durable)
    ensure_development_secrets(folder / "secrets", database_exists=False)
    with cluster:
        bootstrap(cluster, folder / "secrets", DATABASE)
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connections

        call_command("migrate", database="owner", verbosity=0)
        try:
            with _superuser(cluster, folder) as superuser:
                yield superuser
        finally:
            connections.close_all()


def _superuser(cluster: Any, folder: Path) -> Any:
    import psycopg

    from r1site.embedded.data_folder import SUPERUSER
    from r1site.embedded.secrets import read_secret

    password = read_secret(folder / "secrets", "POSTGRES_PASSWORD")
    return psycopg.connect(cluster.conninfo(SUPERUSER, password, DATABASE), autocommit=True)


def _walk(superuser: Any, options: argparse.Namespace) -> dict[str, Any]:
    from django.core.management import call_command

    from memory.rollout.schema_back import take_back_last_migration

    began = time.perf_counter()
    fill(superuser, options.rows)
    report: dict[str, Any] = {"rows": options.rows, "filled_seconds": round(time.perf_counter() - began, 1)}
    before, failures, back = _sums(superuser), [], []
    while True:
        taken = take_back_last_migration()
        print(f"{taken.migration} taken back in {taken.seconds} s", file=sys.stderr)
        back.append({"migration": taken.migration, "seconds": taken.seconds})
        if taken.seconds >= LIMIT_SECONDS:
            failures.append(f"{taken.migration} took {taken.seconds} s")
        if options.below is None or taken.target in (options.below, "zero"):
            break
    below = _sums(superuser)
    began = time.perf_counter()
    call_command("migrate", "memory", database="owner", verbosity=0)
    report |= {"back": back, "again_seconds": round(time.perf_counter() - began, 3)}
    for when, sums in (("below", below), ("made again", _sums(superuser))):
        failures += [
            f"{table}, {when}: {sums[table]}, and was {was}" for table, was in before.items() if sums[table] != was
        ]
    return {**report, "sums": before, "failures": failures}


def fill(superuser: Any, rows: int) -> None:
    """So many documents and chunks of USERS users, by INSERT as the superuser."""
    superuser.execute(_TENANTS, [USERS])
    for first in range(1, rows + 1, PIECE_ROWS):
        last = min(first + PIECE_ROWS - 1, rows)
        for statement in (_DOCUMENTS, _CHUNKS):
            superuser.execute(statement, [USERS, first, last])
        print(f"{last:,} of {rows:,} rows", file=sys.stderr)


def _sums(superuser: Any) -> dict[str, list[int]]:
    """Of each table how many rows it has, and the sum of a hash of each."""
    return {
        table: list(map(int, superuser.execute(
            f"SELECT count(*), coalesce(sum(hashtextextended({of}, 0)::numeric), 0) FROM {table}"
        ).fetchone()))
        for table, of in _SUMS.items()
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
