"""Read one document back as it was sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory import sealing
from memory.errors import DecryptionFailed, KeyUnavailable, NotFound
from memory.indexing.slices import join_slices
from memory.keyring import existing_keys, forget_keys, open_state
from memory.quarantine import quarantine_chunk, quarantine_document
from memory.rls import bound_tenant, tenant_transaction
from memory.security import InvalidTag


@dataclass(frozen=True)
class StoredDocument:
    """One document, opened."""

    doc_id: str
    source: str
    thread_id: str | None
    text: str
    metadata: dict
    chunk_ids: list[UUID]
    created_at: datetime
    updated_at: datetime


_DOCUMENT = """
SELECT source, thread_id, char_count, generation, meta_cipher, created_at, updated_at
FROM memory_documents WHERE user_hash = %s AND doc_id = %s"""

_CHUNKS = """
SELECT id, char_start, generation, text_cipher
FROM memory_chunks WHERE user_hash = %s AND doc_id = %s ORDER BY chunk_index"""


def get_document(doc_id: str) -> StoredDocument:
    """The bound tenant's document `doc_id`, its text put together from its slices.

    Raises NotFound (missing and foreign alike), KeyUnavailable, DecryptionFailed.
    """
    user_hash = bound_tenant()
    keys = existing_keys(user_hash)
    with tenant_transaction(user_hash) as tx:
        document = tx.execute(_DOCUMENT, [user_hash, doc_id])
        slices = tx.execute(_CHUNKS, [user_hash, doc_id])
        state, row, chunks = tx.state(), document.fetchone(), slices.fetchall()
    if row is None or state is None:
        raise NotFound()
    if keys is None or not keys.matches(state):
        forget_keys(user_hash)
        keys = open_state(user_hash, state)
    source, thread_id, char_count, generation, meta_cipher, created_at, updated_at = row
    if {generation, *(chunk[2] for chunk in chunks)} != {keys.generation}:
        raise KeyUnavailable()
    try:
        metadata = sealing.open_document_metadata(keys, doc_id, meta_cipher)
    except InvalidTag:
        quarantine_document(user_hash, doc_id)
        raise DecryptionFailed() from None
    slices = []
    for chunk_id, start, _generation, blob in chunks:
        try:
            slices.append((start, sealing.open_text(keys, chunk_id, blob)))
        except InvalidTag:
            quarantine_chunk(user_hash, chunk_id, "text_cipher")
            raise DecryptionFailed() from None
    try:
        text = join_slices(slices)
    except ValueError:
        text = ""
    if len(text) != char_count:
        raise DecryptionFailed()
    return StoredDocument(
        doc_id, source, thread_id, text, metadata, [chunk[0] for chunk in chunks], created_at, updated_at
    )
