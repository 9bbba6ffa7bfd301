"""Rows for tests below the API: sealed and written by the product, with random vectors and no model."""

from __future__ import annotations

import numpy as np
from django.db import connections

from memory.indexing.term_index import settle
from memory.indexing.write import index_memory_chunk
from memory.models.chunk import EMBEDDING_DIMENSION
from memory.rls import tenant_transaction
from memory.spaces import registered_space
from tests.people import Person

_random = np.random.default_rng(20)


def unit_vector() -> np.ndarray:
    """float32[384] of length 1, somewhere."""
    vector = _random.standard_normal(EMBEDDING_DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def remember(person: Person, *doc_ids: str, using: str = "default") -> None:
    """Store one document of one chunk for each id, replacing what was there."""
    for doc_id in doc_ids:
        text = f"What {person.user_id} keeps under {doc_id}."
        index_memory_chunk(connections[using], person.user_id, doc_id, "notes", text, unit_vector())


def pack_terms(person: Person, *, chunks: int) -> int:
    """Pack the person's loose terms into segments of `chunks` chunks, as a big user's are; how many that made."""
    with tenant_transaction(person.user_hash, write=True) as tx:
        return settle(tx, registered_space(), tx.state().generation, segment_chunks=chunks)
