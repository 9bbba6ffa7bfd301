"""Memories in bulk through the service's own write path, all but the embedding model: sealed, rotated, blinded, stored.

Texts are turns of chats (deploy/bench/chats.py); the model has embedded each of them once, and a chunk's vector is one
of these with noise, so that its neighbourhood is that of real embeddings. Some are the very same again, as greetings
are: equal vectors, which a vector index takes worst. A quarter of a user's chunks are turns of one
chunk in threads, by two speakers; the others are documents of 20.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

TURNS_SHARE = 0.25
THREAD_TURNS, CHUNKS_PER_DOCUMENT = 30, 20
SPEAKERS = ("Alice", "Bob")
# The length of the noise beside a vector of length 1: about 0.94 of the cosine is left.
NOISE = 0.35
# So many chunks are one of so few texts, without noise.
REPEATED_SHARE, REPEATED_TEXTS = 0.02, 20
# In one transaction.
BATCH_CHUNKS = 400
FIRST = datetime(2025, 1, 1, tzinfo=UTC)


class Pool:
    """Texts with the vectors that the model gave them, kept in `cache` between runs."""

    def __init__(self, texts: Sequence[str], cache: Path, seed: int = 1):
        import numpy as np

        self.texts = list(texts)
        self._dice, self._numbers = random.Random(seed), np.random.default_rng(seed)
        try:
            self._vectors = np.load(cache)
        except OSError:
            self._vectors = np.empty((0, 0))
        if len(self._vectors) != len(self.texts):
            self._vectors = self._embedded()
            cache.parent.mkdir(parents=True, exist_ok=True)
            np.save(cache, self._vectors)

    def _embedded(self):
        import numpy as np

        from memory.embedding.process import get_embedder

        embedder = get_embedder()
        embedder.load()
        batches = [self.texts[first : first + 64] for first in range(0, len(self.texts), 64)]
        return np.concatenate([embedder.embed_passages(batch) for batch in batches])

    def draw(self, count: int):
        """(`count` texts, their vectors float32[n, d], most of them with noise)"""
        import numpy as np

        chosen = [self._dice.randrange(len(self.texts)) for _ in range(count)]
        repeated = [at for at in range(count) if self._dice.random() < REPEATED_SHARE]
        for at in repeated:
            chosen[at] = self._dice.randrange(min(REPEATED_TEXTS, len(self.texts)))
        noise = self._numbers.standard_normal((count, self._vectors.shape[1]))
        noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
        noise[repeated] = 0
        vectors = self._vectors[chosen] + noise
        return [self.texts[at] for at in chosen], vectors.astype(np.float32)


def zipf_sizes(chunks: int, users: int) -> list[int]:
    """How many chunks each of `users` has, biggest first: by one over the rank, at least 1, `chunks` together."""
    total = sum(1 / rank for rank in range(1, users + 1))
    sizes = [max(1, int(chunks / rank / total)) for rank in range(1, users + 1)]
    sizes[0] += max(0, chunks - sum(sizes))
    return sizes


def fill_user(
    pool: Pool, user_id: str, chunks: int, on_batch: Callable[[int], object] = lambda chunks: None, *,
    turns_share: float = TURNS_SHARE, thread_turns: int = THREAD_TURNS,
) -> int:  # fmt: skip
    """Bring the user to `chunks` chunks, in transactions of BATCH_CHUNKS; how many that added.

    A run that was killed goes on where it was: ids of documents count from what is there.
    """
    from memory.embedding.spaces import default_space
    from memory.indexing.seal import seal_document
    from memory.indexing.store import store_documents
    from memory.rls import tenant_transaction
    from memory.sealing.keyring import existing_or_new_profile, forget_profiles, under_profile
    from memory.security import hmac_user

    default_space()
    user_hash = hmac_user(user_id)
    existing_or_new_profile(user_hash, user_id)
    with tenant_transaction(user_hash) as tx:
        there = tx.state().chunk_count
    added = 0
    while there + added < chunks:
        first, wanted = there + added, min(BATCH_CHUNKS, chunks - there - added)

        def store(profile, first=first, wanted=wanted) -> None:
            drafts = list(_documents(pool, first, wanted, turns_share, thread_turns))
            sealed = [seal_document(profile, *draft) for draft in drafts]
            with tenant_transaction(user_hash, write=True) as tx:
                # Of a bench's own data nothing is lost that cannot be made again.
                tx.execute("SET LOCAL synchronous_commit = off")
                tx.execute("SET LOCAL statement_timeout = '60s'")
                store_documents(tx, sealed)

        under_profile(user_hash, store, user_id=user_id)
        if first == 0:
            # Its speakers are new, which renewed the profile.
            forget_profiles(user_hash)
        added += wanted
        on_batch(wanted)
    return added


def _documents(pool: Pool, first: int, chunks: int, turns_share: float, thread_turns: int) -> Iterator[tuple]:
    """What `seal_document` takes beside the profile, of `chunks` chunks together; turns first."""
    from memory.indexing.seal import DocumentDraft
    from memory.indexing.slices import Slice

    turns = int(chunks * turns_share)
    texts, vectors = pool.draw(chunks)
    for number in range(turns):
        said = first + number
        draft = DocumentDraft(
            f"turn-{said}", "chat", texts[number], f"thread-{said // thread_turns}", None,
            FIRST + timedelta(minutes=said), said, SPEAKERS[said % 2],
        )  # fmt: skip
        yield draft, [Slice(texts[number], 0, len(texts[number]))], vectors[number : number + 1]
    for begin in range(turns, chunks, CHUNKS_PER_DOCUMENT):
        part = texts[begin : begin + CHUNKS_PER_DOCUMENT]
        slices, start = [], 0
        for text in part:
            slices.append(Slice(text, start, start + len(text)))
            start += len(text)
        draft = DocumentDraft(
            f"document-{first + begin}", "notes", "".join(part), None, {"topic": begin},
            FIRST + timedelta(minutes=first + begin),
        )  # fmt: skip
        yield draft, slices, vectors[begin : begin + len(part)]


def vacuum(connections) -> float:
    """VACUUM (ANALYZE) every table of users' rows; seconds."""
    from memory.isolation.audit import TENANT_TABLES

    started = time.perf_counter()
    with connections["owner"].cursor() as cursor:
        for table in TENANT_TABLES:
            cursor.execute(f"VACUUM (ANALYZE) {table}")
    return time.perf_counter() - started


def bytes_by_part(connections) -> dict[str, float]:
    """Bytes a chunk on disk: vectors and what is in clear, sealed columns, their indexes, own indexes, the rest."""
    parts = {
        "chunk rows": "pg_relation_size(c.oid)",
        "sealed columns (TOAST)": "coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)",
        "chunk indexes": "pg_indexes_size(c.oid)",
    }
    with connections["backup"].cursor() as cursor:
        cursor.execute("SELECT greatest(1, count(*)) FROM memory_chunks")
        [chunks] = cursor.fetchone()
        of_chunks = (
            "FROM pg_class c JOIN pg_inherits h ON h.inhrelid = c.oid WHERE h.inhparent = 'memory_chunks'::regclass"
        )
        cursor.execute("SELECT " + ", ".join(f"sum({size})" for size in parts.values()) + " " + of_chunks)
        found = dict(zip(parts, map(float, cursor.fetchone()), strict=True))
        cursor.execute(
            "SELECT coalesce(sum(pg_relation_size(oid)), 0) FROM pg_class"
            " WHERE relkind = 'i' AND relname ~ '^memory_own_'"
        )
        found["users' own indexes"] = float(cursor.fetchone()[0])
        found["chunk indexes"] -= found["users' own indexes"]
        cursor.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname ~ '^memory_lexical_'"
        )
        found["blind terms"] = float(cursor.fetchone()[0])
        cursor.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname ~ '^memory_'"
            " AND relname !~ '^memory_(lexical_|chunks_p)'"
        )
        found["documents, users, keys, the rest"] = float(cursor.fetchone()[0])
    return {part: round(size / chunks, 1) for part, size in found.items()} | {
        "all": round(sum(found.values()) / chunks, 1),
        "chunks": chunks,
    }
