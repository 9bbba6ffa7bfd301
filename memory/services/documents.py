"""Read one document back as it was sent. In SQL, for deploy/decisions/0012."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory.errors import DecryptionFailed, NotFound
from memory.indexing.expired import unexpired
from memory.indexing.slices import join_slices
from memory.retrieval.open import Opening
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing import columns as sealing
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile


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
    sequence: int = 0
    speaker: str | None = None
    expires_at: datetime | None = None


# What open_document takes, first the document's row, then its chunks' rows in order of chunk_index.
DOCUMENT_COLUMNS = (
    "doc_id, source, thread_id, sequence, char_count, generation, meta_cipher, content_mac, created_at, updated_at,"
    " speaker_cipher, expires_at"
)
CHUNK_COLUMNS = "id, chunk_index, char_start, char_end, generation, text_cipher"

_DOCUMENT = f"""
SELECT {DOCUMENT_COLUMNS} FROM memory_documents WHERE user_hash = %s AND doc_id = %s AND {unexpired()}"""
_CHUNKS = f"""
SELECT {CHUNK_COLUMNS}
FROM memory_chunks WHERE user_hash = %s AND doc_id = %s AND space = %s ORDER BY chunk_index"""


def get_document(doc_id: str) -> StoredDocument:
    """The bound tenant's document `doc_id`, its text put together from its slices.

    Raises NotFound (missing, expired and foreign alike), KeyUnavailable, DecryptionFailed.
    """

    def read(profile: TenantProfile) -> StoredDocument:
        with tenant_transaction(user_hash) as tx:
            document = tx.execute(_DOCUMENT, [user_hash, doc_id])
            slices = tx.execute(_CHUNKS, [user_hash, doc_id, profile.space])
            tx.end()
            profile.verify(tx)
            row, chunks = document.fetchone(), slices.fetchall()
        if row is None:
            raise NotFound()
        with Opening(profile) as opening:
            return open_document(opening, row, chunks)

    user_hash = bound_tenant()
    found = under_profile(user_hash, read)
    if found is None:
        raise NotFound()
    return found


def open_document(opening: Opening, row: tuple, chunks: Sequence[tuple]) -> StoredDocument:
    """Open a document from its row (DOCUMENT_COLUMNS) and its chunks' (CHUNK_COLUMNS). No transaction is open.

    What does not open, is not all there or has no key is raised by `opening` at the end of its block
    (KeyUnavailable, DecryptionFailed), for this document and those opened beside it.
    """
    (
        doc_id,
        source,
        thread_id,
        sequence,
        char_count,
        generation,
        meta_cipher,
        mac,
        created_at,
        updated_at,
        name_cipher,
        expires_at,
    ) = row
    origin = sealing.Origin(source, thread_id, created_at, sequence)
    metadata = opening.document_metadata(doc_id, generation, mac, origin, meta_cipher)
    speaker = opening.speaker(doc_id, generation, mac, name_cipher)
    slices = [
        (start, opening.slice(sealing.Place(chunk_id, doc_id, index, start, end, origin), generation, text_cipher))
        for chunk_id, index, start, end, generation, text_cipher in chunks
    ]
    try:
        text = join_slices(slices)
    except ValueError:
        text = ""
    if len(text) != char_count:
        opening.fail(DecryptionFailed())
    return StoredDocument(
        doc_id,
        source,
        thread_id,
        text,
        metadata,
        [chunk[0] for chunk in chunks],
        created_at,
        updated_at,
        sequence,
        speaker,
        expires_at,
    )
