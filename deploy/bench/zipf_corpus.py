"""Texts whose words are as frequent as in real ones, and users of many such chunks."""

from __future__ import annotations

import random
import sys
import time
from itertools import accumulate

# Of the vectors, as the default model has them.
DIMENSION = 384
VOCABULARY = 40_000
TOKENS_PER_CHUNK = 80
CHUNKS_PER_DOCUMENT = 20
LEXICAL_TABLES = ("memory_lexical_chunks", "memory_lexical_segments", "memory_lexical_blocks")


class Texts:
    """Words w0, w1, ... drawn by a Zipf-Mandelbrot law: the most frequent is in about half of the chunks."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._words = [f"w{rank}" for rank in range(VOCABULARY)]
        self._weights = list(accumulate(1 / (rank + 12) for rank in range(1, VOCABULARY + 1)))

    def words(self, count: int) -> list[str]:
        return self._random.choices(self._words, cum_weights=self._weights, k=count)

    def document(self, chunks: int):
        """(passages, float64[n, d])"""
        import numpy as np

        from memory.indexing.slices import Slice

        passages, start = [], 0
        for _ in range(chunks):
            text = " ".join(self.words(TOKENS_PER_CHUNK))
            passages.append(Slice(text, start, start + len(text)))
            start += len(text)
        return passages, np.random.default_rng(self._random.getrandbits(32)).normal(size=(chunks, DIMENSION))


def load(connections, sizes) -> dict[int, str]:
    """One user a size: size -> user id. Each is loaded once and kept."""
    from memory.indexing.write import index_memory_batch
    from memory.rls import tenant_transaction
    from memory.security import hmac_user

    users = {}
    for size in sizes:
        user_id = users[size] = f"lexical-{size}"
        user_hash = hmac_user(user_id)
        with connections["maint"].cursor() as cursor:
            cursor.execute("SELECT chunk_count FROM memory_tenants WHERE user_hash = %s", [user_hash])
            done = (cursor.fetchone() or [0])[0]
        texts, started = Texts(size + done), time.perf_counter()
        loaded = 0
        while done < size:
            chunks = min(CHUNKS_PER_DOCUMENT * 50, size - done)
            with tenant_transaction(user_hash, write=True) as tx:
                tx.execute("SET LOCAL synchronous_commit = off")
                for first in range(0, chunks, CHUNKS_PER_DOCUMENT):
                    passages, vectors = texts.document(min(CHUNKS_PER_DOCUMENT, chunks - first))
                    index_memory_batch(
                        connections["default"], user_id, f"doc-{done + first}", "bench", passages, vectors, {}
                    )
            done += chunks
            loaded += chunks
            if loaded % 20_000 == 0 or done == size:
                rate = loaded / (time.perf_counter() - started)
                print(f"loaded {done} of {size} chunks, {rate:,.0f} rows/s", file=sys.stderr)
    with connections["owner"].cursor() as cursor:
        for table in ("memory_tenants", "memory_documents", "memory_chunks"):
            cursor.execute(f"VACUUM (ANALYZE) {table}")
        for table in LEXICAL_TABLES:
            cursor.execute(f"VACUUM (FULL, ANALYZE) {table}")
    return users
