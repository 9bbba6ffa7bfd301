"""Turns of a conversation, sealed and stored below the API, under vectors that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.conf import settings

from memory.embedding.vectors import half_vectors, unit_vectors
from memory.indexing.seal import DocumentDraft, seal_document
from memory.indexing.slices import Slice
from memory.indexing.store import store_documents
from memory.lexical.bm25 import lexical_query
from memory.retrieval.candidate import Candidate
from memory.retrieval.filters import Filters
from memory.retrieval.found import Found
from memory.retrieval.search import Search
from memory.rls import tenant_transaction
from memory.sealing.keyring import existing_or_new_profile, forget_profiles
from memory.sealing.protection import protect
from tests.db.memories import DIMENSION, unit_vector
from tests.people import Person

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def say(
    person: Person,
    doc_id: str,
    text: str | Sequence[str],
    *,
    thread: str | None = "t",
    minute: int = 0,
    sequence: int = 0,
    speaker: str | None = None,
    source: str = "chat",
    vector: np.ndarray | None = None,
) -> None:
    """Store one turn, `minute` minutes after BEGIN; several texts are the chunks of one document."""
    texts = [text] if isinstance(text, str) else text
    slices, start = [], 0
    for piece in texts:
        slices.append(Slice(piece, start, start + len(piece)))
        start += len(piece)
    at = BEGIN + timedelta(minutes=minute)
    draft = DocumentDraft(doc_id, source, "".join(texts), thread, None, at, sequence, speaker)
    vectors = np.stack([unit_vector() if vector is None else vector for _ in texts])
    forget_profiles(person.user_hash)
    profile = existing_or_new_profile(person.user_hash, person.user_id)
    with tenant_transaction(person.user_hash, write=True) as tx:
        store_documents(tx, [seal_document(profile, draft, slices, vectors)])


def look(person: Person, question: str, **how: Any) -> dict[tuple[str, int], Candidate]:
    """(doc_id, chunk_index) -> what a search brings for `question`; `how` as `find`."""
    return {(one.doc_id, one.chunk_index): one for one in find(person, question, **how).candidates()}


def find(
    person: Person,
    question: str,
    *,
    limit: int = 200,
    context: bool = True,
    filters: Filters | None = None,
    vector: np.ndarray | None = None,
) -> Found:
    """What a search brings for `question`, the nearest first."""
    profile = existing_or_new_profile(person.user_hash, person.user_id)
    unit = unit_vectors((unit_vector() if vector is None else vector)[None, :], rows=1, dimension=DIMENSION)
    with tenant_transaction(person.user_hash) as tx:
        searchable = half_vectors(protect(profile.search_key, unit))[0]
        lexical = lexical_query(profile.search_key, question, settings.MEMORY_LEXICAL_LANGUAGE)
        return Search(tx, profile.space, searchable, limit, filters or Filters(), lexical, context=context).found()
