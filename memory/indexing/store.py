"""A sealed document that takes over from what was stored under its id, in one transaction.

The replace is free of races: the tenant's row is locked by the transaction's first statement, then the document's;
the old chunks go, the new ones come, the counts follow. Two writers of one document therefore leave one whole version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.admission.quota import require_room
from memory.indexing.chunk_rows import insert_chunks
from memory.indexing.derived import forget_derived, replace_sources
from memory.indexing.removal import delete_chunks, forget_chunks
from memory.indexing.seal import SealedDocument
from memory.indexing.speakers import renew_for_new_speakers
from memory.lexical.segments import SEGMENT_CHUNKS, add_terms, flush
from memory.rls import TenantTransaction
from memory.sealing.counts import count, counted, require_seal_budget


@dataclass(frozen=True)
class StoredVersion:
    """Whether a document replaced an earlier version, and how many chunks the user has with it."""

    replaced: bool
    chunk_count: int


_LOCK_DOCUMENT = """
INSERT INTO memory_documents
    (user_hash, doc_id, source, thread_id, sequence, chunk_count, char_count, generation, meta_cipher, content_mac,
     created_at, expires_at, speaker, speaker_cipher)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (user_hash, doc_id) DO UPDATE SET
    source = excluded.source, thread_id = excluded.thread_id, sequence = excluded.sequence,
    chunk_count = excluded.chunk_count, char_count = excluded.char_count, generation = excluded.generation,
    meta_cipher = excluded.meta_cipher, content_mac = excluded.content_mac, created_at = excluded.created_at,
    expires_at = excluded.expires_at, speaker = excluded.speaker, speaker_cipher = excluded.speaker_cipher,
    updated_at = now()
RETURNING xmax = 0"""


def store_documents(tx: TenantTransaction, documents: Sequence[SealedDocument]) -> list[bool]:
    """Write `documents`, at least one, in this order; which of them replaced an earlier version.

    Raises QuotaExceeded when the user would then have more chunks than before and than the quota, whatever was
    replaced credited, and as `store_document`; the transaction must not be committed then.
    """
    state = documents[0].profile.verify(tx)
    stored = [store_document(tx, document) for document in documents]
    require_room(state.chunk_count, stored[-1].chunk_count)
    replaced = [each.replaced for each in stored]
    speakers = [document.speaker_id for document in documents]
    renew_for_new_speakers(tx, documents[0].profile, speakers, has_replaced=any(replaced))
    return replaced


def store_document(tx: TenantTransaction, document: SealedDocument) -> StoredVersion:
    """Write `document`, replacing every chunk of an earlier version. Does not look at the quota.

    What was made from an earlier version goes with it. Raises StaleKeys when the user's profile is no
    longer the one it was sealed with, KeyUnavailable when that key may seal no more.
    """
    require_seal_budget(document.profile.verify(tx))
    origin = document.origin
    locked = tx.execute(
        _LOCK_DOCUMENT,
        [tx.user_hash, document.doc_id, origin.source, origin.thread_id, origin.sequence, len(document.chunks),
         document.char_count, document.generation, document.meta_cipher, document.content_mac, origin.created_at,
         document.expires_at, document.speaker_id, document.speaker and document.speaker.name_cipher],
    )  # fmt: skip
    # Queued before the first answer is read: one wait for both.
    deleted = delete_chunks(tx, [document.doc_id])
    created = locked.fetchone()[0]
    if not created:
        forget_derived(tx, document.doc_id)
    replace_sources(tx, document.doc_id, document.derived_from, is_new=created)
    insert_chunks(tx, document.space, document)
    add_terms(tx, document.space, [(chunk.id, chunk.terms) for chunk in document.chunks if chunk.terms is not None])
    gone = forget_chunks(tx, deleted)
    adding = count(tx, documents=int(created), chunks=len(document.chunks) - gone, seals=document.seal_count)
    chunk_count = counted(adding)
    if chunk_count >= SEGMENT_CHUNKS:
        flush(tx, document.space)
    return StoredVersion(not created, chunk_count)
