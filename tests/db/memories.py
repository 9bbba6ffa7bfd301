"""Rows for tests below the API: sealed and written by the product, with random vectors and no model."""

from __future__ import annotations

import uuid

import numpy as np
from django.db import connections

from memory.embedding.spaces import default_space
from memory.indexing.write import index_memory_chunk
from memory.lexical.segments import flush
from memory.rls import tenant_transaction
from tests.people import Person

DIMENSION = 384
# A user's row as it may be, whoever's: what row-level security has to say about it is said first. Params [user_hash].
PLANT = (
    "INSERT INTO memory_tenants (user_hash, profile, user_id_cipher, active_space)"
    " VALUES (%s, gen_random_uuid(), '', 1)"
)
_random = np.random.default_rng(20)


def unit_vector() -> np.ndarray:
    """float32[384] of length 1, somewhere."""
    vector = _random.standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def remember(person: Person, *doc_ids: str, using: str = "default") -> None:
    """Store one document of one chunk for each id, replacing what was there."""
    for doc_id in doc_ids:
        text = f"What {person.user_id} keeps under {doc_id}."
        index_memory_chunk(connections[using], person.user_id, doc_id, "notes", text, unit_vector())


def remember_summary(person: Person, doc_id: str, *covered: str) -> None:
    """Store a document of one chunk that was made from `covered`."""
    text = f"What {person.user_id} keeps, in short."
    conn = connections["default"]
    index_memory_chunk(conn, person.user_id, doc_id, "summary", text, unit_vector(), {"derived_from": list(covered)})


def flush_terms(person: Person, *, chunks: int) -> int:
    """Flush the person's memtable into segments of `chunks` chunks, as a big user's is; how many that made."""
    with tenant_transaction(person.user_hash, write=True) as tx:
        return flush(tx, default_space(), segment_chunks=chunks)


def remember_requests(person: Person) -> None:
    """A row in each table that requests leave behind: an answered key, a rate bucket, an erasure long ago.

    And what is noted of a user who is being moved.
    """
    user_hash = person.user_hash
    with tenant_transaction(user_hash, write=True) as tx:
        tx.execute(
            "INSERT INTO memory_idempotency (user_hash, key_mac, body_mac, answer_cipher, generation)"
            " VALUES (%s, %s, %s, %s, 1)",
            [user_hash, bytes(32), bytes(32), bytes(40)],
        )
        tx.execute(
            "INSERT INTO memory_rate_buckets (user_hash, bucket, tokens, updated_at) VALUES (%s, 'query', 1, now())",
            [user_hash],
        )
        tx.execute(
            "INSERT INTO memory_erasures"
            " (user_hash, id, erased_at, unrecoverable_after, erased_documents, erased_chunks)"
            " VALUES (%s, %s, now(), now(), 1, 1)",
            [user_hash, uuid.uuid4()],
        )
        tx.execute(
            "INSERT INTO memory_moves (user_hash, from_space, target_hash, space) VALUES (%s, 1, %s, 2)",
            [user_hash, user_hash],
        )
        tx.execute(
            "INSERT INTO memory_moved_documents (user_hash, doc_id, version, chunk_count) VALUES (%s, 'a', '', 1)",
            [user_hash],
        )
