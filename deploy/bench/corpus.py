"""Synthetic memories of many users, in bulk: made, loaded through the product's write path, and removed again."""

from __future__ import annotations

import random
import sys
import time

# Of the vectors, as the default model has them.
DIMENSION = 384
CHUNKS_PER_DOCUMENT = 200
TOPICS = 300
_VOCABULARY = (
    "the a of to in and for on with at from by about after before garden kitchen doctor train budget meeting release "
    "filter pump cellar harbour colleague birthday allergy router lease bank holiday sister grandmother colour wall "
    "book option medicine november summer monday signed changed booked paid asked chose promised repaired ordered "
    "tomorrow yesterday twice never often carefully green small expensive new old broken quiet early late"
)
WORDS = _VOCABULARY.split()


class Corpus:
    """Synthetic texts and their vectors: every chunk lies near one of some topics."""

    def __init__(self, seed: int):
        import numpy as np

        self._random = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        centres = self._numbers.normal(size=(TOPICS, DIMENSION))
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)

    def document(self, chunks: int):
        """(passages, float64[n, d]): texts of 200-2,000 characters, unit vectors of cosine 0.7 to their topic."""
        import numpy as np

        from memory.indexing.slices import Slice

        passages, start = [], 0
        for _ in range(chunks):
            text = " ".join(self._random.choices(WORDS, k=self._random.randint(35, 330)))
            passages.append(Slice(text, start, start + len(text)))
            start += len(text)
        topics = self._numbers.integers(0, TOPICS, size=chunks)
        noise = self._numbers.normal(size=(chunks, self._centres.shape[1]))
        vectors = self._centres[topics] + noise / np.linalg.norm(noise, axis=1, keepdims=True)
        return passages, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def load_user(connections, corpus: Corpus, user_id: str, chunks: int) -> None:
    """All documents of one user in one transaction, through the product's own write path."""
    from memory.indexing.write import index_memory_batch
    from memory.rls import tenant_transaction
    from memory.security import hmac_user

    with tenant_transaction(hmac_user(user_id), write=True) as tx:
        tx.execute("SET LOCAL synchronous_commit = off")
        for first in range(0, chunks, CHUNKS_PER_DOCUMENT):
            passages, vectors = corpus.document(min(CHUNKS_PER_DOCUMENT, chunks - first))
            metadata = {"topic": first, "tags": ["bench", "synthetic"]}
            index_memory_batch(connections["default"], user_id, f"doc-{first}", "bench", passages, vectors, metadata)


def load(connections, options) -> tuple[str, list[str], dict]:
    """Bring the table to the asked size: (the big user's id, the others' ids, what was done)."""
    from memory.isolation.audit import TENANT_TABLES
    from memory.sealing.keyring import forget_profiles
    from memory.security import hmac_user

    big = f"bench-big-{options.big_chunks}"
    small = [f"bench-{options.chunks}-{number}" for number in range(options.users)]
    with connections["maint"].cursor() as cursor:
        cursor.execute("SELECT user_hash, chunk_count FROM memory_tenants")
        present = dict(cursor.fetchall())
    wanted = [(big, options.big_chunks), *((user_id, options.chunks) for user_id in small)]
    missing = [(user_id, chunks) for user_id, chunks in wanted if present.get(hmac_user(user_id)) != chunks]
    started, rows = time.perf_counter(), 0
    for done, (user_id, chunks) in enumerate(missing, start=1):
        load_user(connections, Corpus(done), user_id, chunks)
        rows += chunks
        if done % 500 == 0 or done == len(missing):
            rate = rows / (time.perf_counter() - started)
            print(f"loaded {done} of {len(missing)} users, {rows} chunks, {rate:,.0f} rows/s", file=sys.stderr)
    forget_profiles()
    seconds = time.perf_counter() - started
    if missing:
        with connections["owner"].cursor() as cursor:
            for table in TENANT_TABLES:
                cursor.execute(f"VACUUM (ANALYZE) {table}")
    with connections["backup"].cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM memory_tenants), (SELECT count(*) FROM memory_chunks),"
            " pg_size_pretty(pg_database_size(current_database()))"
        )
        users, chunks, size = cursor.fetchone()
    summary = {"users": users, "chunks": chunks, "database_size": size, "loaded_rows": rows, "load_seconds": seconds}
    return big, small, summary


def remove_user(connections, user_id: str) -> None:
    """What the write measurement stored goes again, so that the next run finds the table as it was."""
    from memory.isolation.audit import TENANT_TABLES
    from memory.security import hmac_user

    with connections["maint"].cursor() as cursor:
        for table in TENANT_TABLES:
            cursor.execute(f"DELETE FROM {table} WHERE user_hash = %s", [hmac_user(user_id)])
