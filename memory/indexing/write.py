"""The write path below the service: seal a document's chunks, then replace the document in one go.

`seal_document` needs no database. `store_documents` is the replace itself, race-free: the tenant's
row is locked by the transaction's first statement, then the document's; the old chunks go, the new
ones come, the counts follow. Two writers of one document therefore leave one whole version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
from django.conf import settings
from pgvector import HalfVector
from uuid6 import uuid7

from memory.admission.quota import require_room
from memory.embedding.rotation import Rotation
from memory.embedding.spaces import registered_space
from memory.embedding.vectors import half_vectors, unit_vectors
from memory.errors import InvalidInput, StaleKeys, TooManyChunks
from memory.indexing.derived import derived_from, forget_derived, replace_sources
from memory.indexing.slices import join_slices
from memory.lexical.segments import SEGMENT_CHUNKS, add_terms, flush, remove_terms
from memory.lexical.terms import Blinder, BlindTerms, terms
from memory.models.chunk import EMBEDDING_DIMENSION
from memory.rls import TenantTransaction, joined_transaction
from memory.sealing import columns as sealing
from memory.sealing.keyring import Purpose, TenantKeys, create_tenant, open_state, require_seal_budget
from memory.security import hmac_user

SEALS_PER_CHUNK = 3  # text, metadata, vector
SEALS_PER_DOCUMENT = 1  # metadata
# Seven parameters a row, and PostgreSQL's protocol counts a statement's in 16 bits.
PASSAGES_MAX = 9_000


@dataclass(frozen=True)
class Passage:
    """One chunk before sealing: `text` is exactly the document's characters start..end."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class DocumentDraft:
    """A document before sealing. `created_at` is aware; None means now."""

    doc_id: str
    source: str
    text: str
    thread_id: str | None = None
    metadata: dict | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class SealedChunk:
    """One row of memory_chunks, but for what it shares with its document; its blind terms stand apart."""

    id: UUID
    start: int
    end: int
    embedding: HalfVector
    text_cipher: bytes
    meta_cipher: bytes
    emb_cipher: bytes
    terms: BlindTerms | None


@dataclass(frozen=True)
class SealedDocument:
    """Everything `store_documents` writes; holds no plaintext but what is in clear by design."""

    keys: TenantKeys
    space: int
    doc_id: str
    source: str
    thread_id: str | None
    char_count: int
    created_at: datetime
    meta_cipher: bytes
    content_mac: bytes
    derived_from: list[str]
    chunks: tuple[SealedChunk, ...]

    @property
    def seal_count(self) -> int:
        """How many times the data key's sub-keys were used."""
        return SEALS_PER_DOCUMENT + SEALS_PER_CHUNK * len(self.chunks)


@dataclass(frozen=True)
class StoredVersion:
    """Whether a document replaced an earlier version, and how many chunks the user has with it."""

    replaced: bool
    chunk_count: int


def seal_document(
    keys: TenantKeys, space: int, draft: DocumentDraft, passages: Sequence[Passage], embeddings,
    *, language: str | None = None,
) -> SealedDocument:  # fmt: skip
    """Seal a draft and blind its terms. `embeddings`: float[n, d], one row a passage, of the active space's model.

    `language` of its words: one of `terms.LANGUAGES`; None is the deployment's. Raises InvalidEmbedding
    before anything is sealed, InvalidInput as `derived_from`.
    """
    sources = derived_from(draft.source, draft.metadata or {}, draft.doc_id)
    units = unit_vectors(embeddings, rows=len(passages), dimension=EMBEDDING_DIMENSION)
    searchable = half_vectors(protect(keys, units))
    blinder = Blinder(keys.subkey(Purpose.LEXICAL)) if settings.MEMORY_LEXICAL else None
    language = language or settings.MEMORY_LEXICAL_LANGUAGE
    chunks = []
    vectors = np.asarray(embeddings, np.float32)
    for index, (passage, vector, stored) in enumerate(zip(passages, vectors, searchable, strict=True)):
        chunk_id = uuid7()
        place = sealing.Place(chunk_id, draft.doc_id, index, passage.start, passage.end)
        chunks.append(
            SealedChunk(
                id=chunk_id,
                start=passage.start,
                end=passage.end,
                embedding=stored,
                text_cipher=sealing.seal_text(keys, place, passage.text),
                meta_cipher=sealing.seal_chunk_metadata(keys, chunk_id, {}),
                emb_cipher=sealing.seal_vector(keys, chunk_id, vector, stored),
                terms=blinder and blinder.blind(terms(passage.text, language)),
            )
        )
    mac = sealing.content_mac(keys, draft.text)
    return SealedDocument(
        keys=keys,
        space=space,
        doc_id=draft.doc_id,
        source=draft.source,
        thread_id=draft.thread_id,
        char_count=len(draft.text),
        created_at=draft.created_at or datetime.now(UTC),
        meta_cipher=sealing.seal_document_metadata(keys, draft.doc_id, mac, draft.metadata or {}),
        content_mac=mac,
        derived_from=sources,
        chunks=tuple(chunks),
    )


def protect(keys: TenantKeys, units: np.ndarray) -> np.ndarray:
    """The searchable form of float32[n, d] or [d]: rotated by the user's secret matrix unless protection is off."""
    if settings.MEMORY_EMBEDDING_PROTECTION == "none":
        return units
    return keys.cached(Purpose.ROTATION, lambda key: Rotation(key, units.shape[-1])).apply(units)


_LOCK_DOCUMENT = """
INSERT INTO memory_documents
    (user_hash, doc_id, source, thread_id, chunk_count, char_count, generation, meta_cipher, content_mac, created_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (user_hash, doc_id) DO UPDATE SET
    source = excluded.source, thread_id = excluded.thread_id, chunk_count = excluded.chunk_count,
    char_count = excluded.char_count, generation = excluded.generation, meta_cipher = excluded.meta_cipher,
    content_mac = excluded.content_mac, created_at = excluded.created_at, updated_at = now()
RETURNING xmax = 0"""

_DELETE_CHUNKS = "DELETE FROM memory_chunks WHERE user_hash = %s AND doc_id = %s RETURNING id"

_INSERT_CHUNKS = """
INSERT INTO memory_chunks
    (user_hash, space, doc_id, source, thread_id, generation, created_at,
     id, chunk_index, char_start, char_end, embedding, text_cipher, meta_cipher, emb_cipher)
VALUES """
_SHARED_VALUES = "%(user_hash)s, %(space)s, %(doc_id)s, %(source)s, %(thread_id)s, %(generation)s, %(created_at)s"

_COUNT = """
UPDATE memory_tenants SET
    document_count = document_count + %s, chunk_count = chunk_count + %s, seal_count = seal_count + %s,
    updated_at = now()
WHERE user_hash = %s
RETURNING chunk_count"""


def store_documents(tx: TenantTransaction, documents: Sequence[SealedDocument]) -> list[bool]:
    """Write `documents`, at least one, in this order; which of them replaced an earlier version.

    Raises QuotaExceeded when the user would then have more chunks than before and than the quota, whatever was
    replaced credited, and as `store_document`; the transaction must not be committed then.
    """
    stored = [store_document(tx, document) for document in documents]
    require_room(tx.state().chunk_count, stored[-1].chunk_count)
    return [each.replaced for each in stored]


def store_document(tx: TenantTransaction, document: SealedDocument) -> StoredVersion:
    """Write `document`, replacing every chunk of an earlier version. Does not look at the quota.

    What was made from an earlier version goes with it. Raises StaleKeys when the user's key is no longer
    the one it was sealed with, KeyUnavailable when that key may seal no more.
    """
    state = tx.state()
    if not document.keys.matches(state):
        raise StaleKeys(retry_after_seconds=1)
    require_seal_budget(state)
    generation = document.keys.generation
    created = tx.execute(
        _LOCK_DOCUMENT,
        [tx.user_hash, document.doc_id, document.source, document.thread_id, len(document.chunks),
         document.char_count, generation, document.meta_cipher, document.content_mac,
         document.created_at],
    ).fetchone()[0]  # fmt: skip
    if not created:
        forget_derived(tx, document.doc_id)
    replace_sources(tx, document.doc_id, document.derived_from, is_new=created)
    deleted = tx.execute(_DELETE_CHUNKS, [tx.user_hash, document.doc_id])
    if document.chunks:
        tx.execute(*_insert_chunks(tx.user_hash, generation, document))
    terms_by_chunk = [(chunk.id, chunk.terms) for chunk in document.chunks if chunk.terms is not None]
    add_terms(tx, document.space, generation, terms_by_chunk)
    gone = [chunk_id for (chunk_id,) in deleted.fetchall()]
    counted = tx.execute(_COUNT, [int(created), len(document.chunks) - len(gone), document.seal_count, tx.user_hash])
    remove_terms(tx, gone)
    chunk_count = counted.fetchone()[0]
    if chunk_count >= SEGMENT_CHUNKS:
        flush(tx, document.space, generation)
    return StoredVersion(not created, chunk_count)


def _insert_chunks(user_hash: str, generation: int, document: SealedDocument) -> tuple[str, dict]:
    params = {
        "user_hash": user_hash, "space": document.space, "doc_id": document.doc_id, "source": document.source,
        "thread_id": document.thread_id, "generation": generation, "created_at": document.created_at,
    }  # fmt: skip
    rows = []
    for index, chunk in enumerate(document.chunks):
        params |= {
            f"id{index}": chunk.id, f"start{index}": chunk.start, f"end{index}": chunk.end,
            f"embedding{index}": chunk.embedding, f"text{index}": chunk.text_cipher,
            f"meta{index}": chunk.meta_cipher, f"emb{index}": chunk.emb_cipher,
        }  # fmt: skip
        rows.append(
            f"({_SHARED_VALUES}, %(id{index})s, {index}, %(start{index})s, %(end{index})s,"
            f" %(embedding{index})s::halfvec, %(text{index})s, %(meta{index})s, %(emb{index})s)"
        )
    return _INSERT_CHUNKS + ", ".join(rows), params


def index_memory_batch(
    conn, user_id: str, doc_id: str, source: str, passages: Sequence[Passage], embeddings, metadata: dict | None = None,
    *, thread_id: str | None = None, created_at: datetime | None = None,
) -> list[UUID]:  # fmt: skip
    """Seal and store `passages` as the whole of document `doc_id`; their chunk ids, in order.

    `conn` is the Django connection. Inside `tenant_transaction(write=True)` of the same user it
    joins that transaction; else it opens one. `embeddings`: float[n, d] of the active space's model.
    Replaces an earlier version of the document. Raises CrossTenantAttempt when `conn` is in another
    user's transaction, InvalidEmbedding, InvalidUserId, InvalidInput without passages or with a
    gap between them, or where it names too many documents that it was made from; QuotaExceeded.
    """
    if not passages:
        raise InvalidInput(detail="A document needs at least one passage.")
    if len(passages) > PASSAGES_MAX:
        raise TooManyChunks(detail=f"{len(passages)} passages; at most {PASSAGES_MAX} in one document.")
    user_hash = hmac_user(user_id)
    space = registered_space()
    with joined_transaction(conn, user_hash) as tx:
        state = tx.state()
        keys = create_tenant(tx, user_id) if state is None else open_state(user_hash, state)
        try:
            text = join_slices((passage.start, passage.text) for passage in passages)
        except ValueError:
            raise InvalidInput(detail="The passages leave out part of the document.") from None
        draft = DocumentDraft(doc_id, source, text, thread_id, metadata, created_at)
        document = seal_document(keys, space, draft, passages, embeddings)
        store_documents(tx, [document])
    return [chunk.id for chunk in document.chunks]


def index_memory_chunk(
    conn, user_id: str, doc_id: str, source: str, text: str, embedding, metadata: dict | None = None
) -> UUID:
    """Seal and store one text as the whole of document `doc_id`, replacing what it held; its chunk id.

    A document of one chunk: calls in a loop need a `doc_id` each. As `index_memory_batch` with one
    passage; `embedding`: float[d].
    """
    passage = Passage(text, 0, len(text))
    return index_memory_batch(conn, user_id, doc_id, source, [passage], np.asarray(embedding)[None, :], metadata)[0]
