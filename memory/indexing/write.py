"""Vectors of one's own, stored by code of the same process: a document's text and its embeddings in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import numpy as np
import psycopg

from memory.embedding.spaces import default_space
from memory.errors import InvalidInput, TooManyChunks
from memory.indexing.seal import DocumentDraft, seal_document
from memory.indexing.slices import Slice, join_slices
from memory.indexing.store import store_documents
from memory.isolation.awaited import AwaitedConnection
from memory.rls import TenantTransaction, give_back_connection, joined_transaction, set_rls_context
from memory.sealing.keyring import create_tenant
from memory.sealing.names import user_hash_of
from memory.sealing.profile import read_profile

# Seven parameters a row, and PostgreSQL's protocol counts a statement's in 16 bits.
PASSAGES_MAX = 9_000


def index_memory_batch(
    conn, user_id: str, doc_id: str, source: str, passages: Sequence[Slice], embeddings, metadata: dict | None = None,
    *, thread_id: str | None = None, created_at: datetime | None = None,
) -> list[UUID]:  # fmt: skip
    """Seal and store `passages` as the whole of document `doc_id`; their chunk ids, in order.

    `passages` may overlap and leave no gap; `embeddings`: float[n, d] of the user's space's model. `conn` is
    a Django connection or a psycopg one: inside a transaction of the same user, or of nobody, this joins it, else it
    opens one. Replaces an earlier version of the document.

    Raises CrossTenantAttempt when `conn` is in another user's transaction, InvalidEmbedding, InvalidUserId,
    InvalidInput without passages, with a gap between them, or where `metadata` names too many documents that this one
    was made from, TooManyChunks, QuotaExceeded.
    """
    if not passages:
        raise InvalidInput(detail="A document needs at least one passage.")
    if len(passages) > PASSAGES_MAX:
        raise TooManyChunks(detail=f"{len(passages)} passages; at most {PASSAGES_MAX} in one document.")
    try:
        text = join_slices((passage.start, passage.text) for passage in passages)
    except ValueError:
        raise InvalidInput(detail="The passages leave out part of the document.") from None
    draft = DocumentDraft(doc_id, source, text, thread_id, metadata, created_at)
    user_hash = user_hash_of(user_id)
    space = default_space()
    with joined_transaction(conn, user_hash) as tx:
        return _stored(tx, user_id, space, draft, passages, embeddings)


def index_memory_chunk(
    conn, user_id: str, doc_id: str, source: str, text: str, embedding, metadata: dict | None = None
) -> UUID:
    """Seal and store one text as the whole of document `doc_id`, replacing what it held; its chunk id.

    A document of one chunk: calls in a loop need a `doc_id` each. As `index_memory_batch` with one
    passage; `embedding`: float[d].
    """
    passage = Slice(text, 0, len(text))
    return index_memory_batch(conn, user_id, doc_id, source, [passage], np.asarray(embedding)[None, :], metadata)[0]


async def aindex_memory_chunk(
    conn: psycopg.AsyncConnection | psycopg.Connection, user_id: str, doc_id: str, source: str, text: str, embedding,
    metadata: dict | None = None,
) -> UUID:  # fmt: skip
    """`index_memory_chunk` in another thread, so that the event loop goes on. Nobody else uses `conn` meanwhile.

    Raises TypeError for a Django connection, which belongs to the thread that made it.
    """
    if isinstance(conn, psycopg.AsyncConnection):
        draft = DocumentDraft(doc_id, source, text, None, metadata)
        async with set_rls_context(conn, user_id) as user_hash:
            awaited = AwaitedConnection(conn)
            tx = TenantTransaction(awaited, user_hash, write=True)
            return await awaited.run(lambda: _giving_back(_chunk_stored, tx, user_id, draft, embedding))
    if not isinstance(conn, psycopg.Connection):
        raise TypeError("another thread can only use a connection of psycopg's own")
    return await asyncio.to_thread(
        _giving_back, index_memory_chunk, conn, user_id, doc_id, source, text, embedding, metadata
    )


def _stored(
    tx: TenantTransaction, user_id: str, space: int, draft: DocumentDraft, passages: Sequence[Slice], embeddings
) -> list[UUID]:
    """The document's chunk ids. A new user begins in `space`."""
    profile = read_profile(tx) or create_tenant(tx, user_id, space)
    document = seal_document(profile, draft, passages, embeddings)
    store_documents(tx, [document])
    return [chunk.id for chunk in document.chunks]


def _chunk_stored(tx: TenantTransaction, user_id: str, draft: DocumentDraft, embedding) -> UUID:
    space = default_space()
    tx.ask_state()
    passage = Slice(draft.text, 0, len(draft.text))
    return _stored(tx, user_id, space, draft, [passage], np.asarray(embedding)[None, :])[0]


def _giving_back(store: Callable[..., UUID], *arguments) -> UUID:
    try:
        return store(*arguments)
    finally:
        # This thread's own, on which the space was looked up.
        give_back_connection()
