"""A plaintext BM25 to compare with, and texts stored and searched below the API, without a model."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping

from django.conf import settings
from django.db import connections

from memory.embedding.vectors import half_vectors, unit_vectors
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.lexical.bm25 import lexical_query
from memory.lexical.terms import terms
from memory.retrieval.candidate import Candidate
from memory.retrieval.filters import Filters
from memory.retrieval.search import Search
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing.keyring import existing_profile
from memory.sealing.protection import protect
from memory.services.forget import delete_document
from tests.db.memories import DIMENSION, unit_vector
from tests.people import Person

WORDS = [f"word{rank}" for rank in range(300)]
WEIGHTS = [1 / (rank + 3) for rank in range(300)]


def random_texts(seed: int, documents: int) -> dict[str, list[str]]:
    """doc_id -> its one to three passages, of 4 to 60 words with Zipf-like frequencies."""
    chance = random.Random(seed)
    return {
        f"d{number:03}": [
            " ".join(chance.choices(WORDS, WEIGHTS, k=chance.randint(4, 60))) for _ in range(chance.randint(1, 3))
        ]
        for number in range(documents)
    }


def store(person: Person, doc_id: str, texts: list[str], *, source: str = "notes") -> None:
    """One document of these passages, under random vectors."""
    passages, start = [], 0
    for text in texts:
        passages.append(Slice(text, start, start + len(text)))
        start += len(text)
    vectors = [unit_vector() for _ in texts]
    index_memory_batch(connections["default"], person.user_id, doc_id, source, passages, vectors)


def remove(person: Person, doc_id: str) -> None:
    with bind_tenant(person.user_hash):
        delete_document(doc_id)


def search(person: Person, question: str, limit: int = 200, filters: Filters | None = None) -> list[Candidate]:
    """Both legs' candidates for `question`, the vector leg asked about nothing in particular."""
    profile = existing_profile(person.user_hash)
    vector = unit_vectors(unit_vector()[None, :], rows=1, dimension=DIMENSION)
    with tenant_transaction(person.user_hash) as tx:
        searchable = half_vectors(protect(profile.search_key, vector))[0]
        lexical = lexical_query(profile.search_key, question, settings.MEMORY_LEXICAL_LANGUAGE)
        return Search(tx, profile.space, searchable, limit, filters or Filters(), lexical).candidates()


def lexical_scores(person: Person, question: str) -> dict[tuple[str, int], float | None]:
    """(doc_id, chunk_index) -> BM25, of every chunk of a small user; None where the question has no terms."""
    return {(c.doc_id, c.chunk_index): c.bm25 for c in search(person, question)}


def in_order(scores: Mapping[tuple[str, int], float]) -> list[tuple[str, int]]:
    """Best first; scores that are equal but for rounding are equal, and go by document and place."""
    return sorted((key for key in scores if scores[key] > 0), key=lambda key: (-round(scores[key], 7), key))


def plain_bm25(
    texts: Mapping[str, list[str]], question: str, name: Callable[[str], object] = str
) -> dict[tuple[str, int], float]:
    """BM25 (k1 1.2, b 0.75) over the terms themselves; `name` may make some of them the same."""

    def count(text: str) -> Counter:
        named = Counter()
        for term, times in terms(text).items():
            named[name(term)] += times
        return named

    chunks = {(doc_id, i): count(text) for doc_id, passages in texts.items() for i, text in enumerate(passages)}
    mean = sum(chunk.total() for chunk in chunks.values()) / len(chunks)
    scores = dict.fromkeys(chunks, 0.0)
    for term, times in count(question).items():
        holding = [key for key, chunk in chunks.items() if chunk[term]]
        idf = math.log(1 + (len(chunks) - len(holding) + 0.5) / (len(holding) + 0.5))
        for key in holding:
            tf, length = chunks[key][term], chunks[key].total()
            scores[key] += times * idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / mean))
    return scores
